import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from rlnsp.algorithms.ddpo import DDPO
from rlnsp.algorithms.grpo import GRPO
from rlnsp.config import ConfigError
from rlnsp.protocols import Stateful
from rlnsp.settings import SamplerConfig
from rlnsp.testing import check_algorithm
from rlnsp.types import Scene
from tests.algorithms.trajectories import SAMPLER, gradient, largest, off_policy, scores, toy, trajectory

SCORES = (0.0, 1.0, 2.0, 5.0, 5.0, 8.0)


def ddpo(**settings: Any):
    return DDPO(DDPO.Config(**settings), SAMPLER)


def advantages(algorithm, *values, scenes=("s0", "s1")):
    """Of each sample, those of advantage 0 included."""
    made = trajectory(scenes=[Scene(id=one, context=f"context {one}") for one in scenes])
    batch, _ = algorithm.credit(made, scores(*values))
    return batch.advantage[::2]


@pytest.mark.parametrize("estimator", ["ppo", "reinforce"])
def test_it_keeps_to_the_seam(estimator):
    check_algorithm(lambda sampler: DDPO(DDPO.Config(estimator=estimator), sampler))


def test_at_first_scores_are_measured_by_all_of_the_iteration():
    # 0, 1, 2, 5, 5, 8: mean 3.5, squares 12.25 + 6.25 + 2.25 + 2.25 + 2.25 + 20.25 = 45.5.
    std = math.sqrt(45.5 / 6)
    expected = torch.tensor([-3.5, -2.5, -1.5, 1.5, 1.5, 4.5]) / std
    torch.testing.assert_close(advantages(ddpo(), *SCORES), expected)


def test_later_by_the_scenes_own_latest_scores():
    algorithm = ddpo(history=4, min_history=4, kl_coefficient=1.0)
    advantages(algorithm, *SCORES)
    # Scene s0 has had 0, 1, 2 and now 4, 4, 6: the latest four are 2, 4, 4, 6, of mean 4 and std sqrt(2).
    # Scene s2 is new: all six of this iteration are 4, 4, 6, 1, 1, 2, of mean 3 and squares 20.
    got = advantages(algorithm, 4.0, 4.0, 6.0, 1.0, 1.0, 2.0, scenes=("s0", "s2"))
    own, every = math.sqrt(2), math.sqrt(20 / 6)
    torch.testing.assert_close(got, torch.tensor([0, 0, 2 / own, -2 / every, -2 / every, -1 / every]))
    assert algorithm.history["s0"] == [2.0, 4.0, 4.0, 6.0]
    assert algorithm.history["s1"] == [5.0, 5.0, 8.0]


def test_a_sample_that_was_not_scored_is_in_no_history_and_in_no_batch():
    algorithm = ddpo()
    batch, _ = algorithm.credit(trajectory(), scores(math.nan, *SCORES[1:]))
    assert batch.total == len(batch) == 10
    assert algorithm.history["s0"] == [1.0, 2.0]


def test_a_run_that_goes_on_has_the_same_history():
    one, other = ddpo(history=4, min_history=4), ddpo(history=4, min_history=4)
    advantages(one, *SCORES)
    assert isinstance(one, Stateful)
    state = one.state()
    other.load_state(json.loads(json.dumps(state)))
    assert torch.equal(advantages(one, *SCORES[::-1]), advantages(other, *SCORES[::-1]))
    assert state["history"]["s0"] == [0.0, 1.0, 2.0]  # a copy: it does not go on growing


@pytest.mark.parametrize("estimator", ["ppo", "reinforce"])
def test_on_policy_its_gradient_is_the_policy_gradient(estimator):
    policy = toy()
    algorithm, grpo = ddpo(estimator=estimator), GRPO(GRPO.Config(), SAMPLER)
    batch, _ = algorithm.credit(trajectory(policy), scores(*SCORES))
    loss, stats = algorithm.loss(policy, batch)
    expected, _ = grpo.loss(policy, batch)
    assert stats["log_ratio_max"] == stats["clip_fraction"] == 0
    for ours, theirs in zip(gradient(loss, policy), gradient(expected, policy), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_off_policy_one_estimator_clips_and_the_other_does_not():
    policy = toy()
    batch = off_policy(ddpo(), policy)
    one, clipped = batch.take(slice(0, 1)), []
    for sign in (1.0, -1.0):
        turned = replace(one, advantage=torch.tensor([sign]))
        loss, stats = ddpo(clip=1e-9).loss(policy, turned)
        assert (largest(gradient(loss, policy)) == 0) == (stats["clip_fraction"] == 1)
        clipped.append(stats["clip_fraction"])
        loss, stats = ddpo(clip=1e-9, estimator="reinforce").loss(policy, turned)
        assert stats["clip_fraction"] == 0
        assert largest(gradient(loss, policy)) > 0
    assert sorted(clipped) == [0, 1]


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="ddpo trains stochastic steps"):
        DDPO(DDPO.Config(), SamplerConfig(rule="ode"))
    for settings, says in (
        ({"clip": 0.0}, "clip must be"),
        ({"history": 1}, "history must be"),
        ({"min_history": 33}, r"min_history must be between 2 and history \(32\); got 33"),
        ({"kl_coefficient": -1.0}, "kl_coefficient must be"),
    ):
        with pytest.raises(ConfigError, match=says):
            ddpo(**settings)
