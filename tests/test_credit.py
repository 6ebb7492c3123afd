import math

import pytest
import torch

from rlnsp.config import ConfigError
from rlnsp.credit import Credit
from rlnsp.maths.steps import step
from rlnsp.randomness import Randomness
from rlnsp.rollout import rollout
from rlnsp.settings import SamplerConfig, WindowConfig
from rlnsp.testing import ToyPolicy
from rlnsp.types import Scene, Scores

SCENES = [Scene(id="a", context="one"), Scene(id="b", context="two")]


@pytest.mark.parametrize("rule", ["cps", "flow_sde", "dance_sde"])
def test_steps_share_the_advantage_in_proportion_to_their_noise(rule):
    sampler = SamplerConfig(num_steps=6, rule=rule, std_cap=0.3, window=WindowConfig(size=4))
    policy = ToyPolicy(ToyPolicy.Config())
    trajectory = rollout(policy, SCENES, sampler, 2, Randomness(seed=0), chunk_size=8)
    scores = Scores(raw={"r": torch.tensor([0.0, 1.0, 3.0, 1.0])}, weights={"r": 1.0})
    equal, noise = (
        credit.recorded_steps(trajectory, credit(scores, trajectory.group), sampler)
        for credit in (Credit(), Credit(steps="noise"))
    )
    sigmas, x = policy.sigmas(6), torch.zeros(4, 1, 1)
    _, std = step(rule, x, x, sigmas[:4], sigmas[1:5], 0.7, 0.3)
    shares = std.flatten() / std.mean()
    torch.testing.assert_close(noise.advantage, equal.advantage * shares.repeat(4))
    # What a sample learns in all stays the same.
    torch.testing.assert_close(noise.advantage.view(4, 4).mean(1), equal.advantage[::4])
    assert noise.total == equal.total == 16


def test_a_sample_that_one_of_several_rewards_could_not_score_has_no_advantage():
    raw = {"a": torch.tensor([math.nan, 1.0, 3.0]), "b": torch.tensor([1.0, 2.0, 9.0])}
    credited = Credit()(Scores(raw=raw, weights={"a": 1.0, "b": 1.0}), torch.zeros(3).long(), keep_all=True)
    assert credited.samples.tolist() == [1, 2]
    assert credited.advantage.tolist() == [0, -1, 1]
    assert credited.total == 2


@pytest.mark.parametrize("settings", [{"best_k": -1}, {"worst_k": -1}, {"advantage_clip": 0.0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=f"credit.{next(iter(settings))} must be"):
        Credit(**settings)
