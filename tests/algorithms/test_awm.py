from dataclasses import replace

import pytest
import torch

from rlnsp.algorithms.awm import AWM
from rlnsp.config import ConfigError
from rlnsp.settings import SamplerConfig
from rlnsp.testing import check_algorithm
from tests.algorithms.trajectories import SAMPLER, gradient, largest, moved, scores, toy, trajectory

VALUES = (0.0, 1.0, 2.0, 5.0, 5.0, 8.0)


def awm(**settings):
    return AWM(AWM.Config(**settings), SAMPLER)


def credited(algorithm, policy):
    return algorithm.credit(trajectory(policy), scores(*VALUES))[0]


def test_it_keeps_to_the_seam():
    check_algorithm(lambda sampler: AWM(AWM.Config(), sampler))
    check_algorithm(lambda sampler: AWM(AWM.Config(), sampler), SamplerConfig(rule="ode", same_noise=False))


def test_on_policy_its_gradient_is_the_flow_matching_losss_weighted_by_the_advantage():
    policy = toy()
    moved(policy)
    batch = credited(awm(), policy)
    assert batch.total == 18
    assert len(batch) == 15  # what has advantage 0 has no effect
    loss, stats = awm().loss(policy, batch)
    sigma = batch.sigma[:, None, None]
    noise = (batch.x - (1 - sigma) * batch.x_next) / sigma
    v = policy.velocity(batch.x, batch.sigma, batch.condition.take(batch.scene))
    matching = (v - (noise - batch.x_next)).square().mean((1, 2))
    for ours, theirs in zip(
        gradient(loss, policy), gradient((batch.advantage * matching).mean(), policy), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert stats["log_ratio_max"] == 0
    assert stats["ratio"] == 1
    assert stats["matching_loss"] == pytest.approx(matching.mean().item(), rel=1e-5)


def test_past_the_clip_in_the_advantages_direction_there_is_no_gradient():
    policy = toy()
    batch = credited(awm(), policy)
    batch = replace(batch, anchor=awm().anchor(policy, batch).detach())
    moved(policy)
    _, free = awm(clip=0.9).loss(policy, batch)
    assert free["log_ratio_max"] > 1e-3
    assert free["clip_fraction"] == 0
    one, clipped = batch.take(slice(0, 1)), []
    for sign in (1.0, -1.0):
        loss, stats = awm(clip=1e-9).loss(policy, replace(one, advantage=torch.tensor([sign])))
        assert (largest(gradient(loss, policy)) == 0) == (stats["clip_fraction"] == 1)
        assert (sign * (stats["ratio"] - 1) > 0) == (stats["clip_fraction"] == 1)
        clipped.append(stats["clip_fraction"])
    assert sorted(clipped) == [0, 1]


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="a group is one clip"):
        AWM(AWM.Config(), SamplerConfig(rule="ode"))
    with pytest.raises(ConfigError, match="num_levels must be at most"):
        awm(num_levels=5)
    for settings in ({"clip": 0.0}, {"num_levels": 0}, {"kl_coefficient": -1.0}):
        with pytest.raises(ConfigError, match=f"{next(iter(settings))} must be"):
            awm(**settings)
