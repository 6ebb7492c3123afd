from dataclasses import replace

import pytest
import torch

from rlnsp.algorithms.grpo_guard import GRPOGuard
from rlnsp.config import ConfigError
from rlnsp.rollout import transition
from rlnsp.settings import SamplerConfig
from rlnsp.testing import check_algorithm
from tests.algorithms.trajectories import SAMPLER, gradient, largest, off_policy, scores, toy, trajectory


def guard(**settings):
    return GRPOGuard(GRPOGuard.Config(**settings), SAMPLER)


def test_it_keeps_to_the_seam():
    check_algorithm(lambda sampler: GRPOGuard(GRPOGuard.Config(), sampler))


def test_the_first_gradient_is_reinforces_with_each_step_scaled_by_its_std_over_dt():
    policy = toy()
    batch, _ = guard().credit(trajectory(policy), scores(0.0, 1.0, 2.0, 5.0, 5.0, 8.0))
    loss, stats = guard().loss(policy, batch)
    condition = batch.condition.take(batch.scene)
    mean, std = transition(policy, batch.x, batch.sigma, batch.sigma_next, condition, SAMPLER, 1.0)
    log_density = torch.distributions.Normal(mean, std).log_prob(batch.x_next).mean((1, 2))
    scale = std.flatten() / (batch.sigma - batch.sigma_next)
    expected = -(batch.advantage * scale * log_density).mean()
    for ours, theirs in zip(gradient(loss, policy), gradient(expected, policy), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert stats["log_ratio_max"] == 0
    assert stats["ratio"] == stats["normalised_ratio"] == 1


def test_the_clip_is_on_the_normalised_ratio():
    algorithm, policy = guard(clip=0.9), toy()
    batch = off_policy(algorithm, policy)
    _, free = algorithm.loss(policy, batch)
    assert free["clip_fraction"] == 0
    assert free["log_ratio_max"] > 1e-3
    # Of one transition the normalised ratio is to one side of 1: the advantage of that side is clipped.
    one, clipped = batch.take(slice(0, 1)), []
    for sign in (1.0, -1.0):
        loss, stats = guard(clip=1e-9).loss(policy, replace(one, advantage=torch.tensor([sign])))
        assert (largest(gradient(loss, policy)) == 0) == (stats["clip_fraction"] == 1)
        assert (sign * (stats["normalised_ratio"] - 1) > 0) == (stats["clip_fraction"] == 1)
        clipped.append(stats["clip_fraction"])
    assert sorted(clipped) == [0, 1]


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="grpo_guard trains stochastic steps"):
        GRPOGuard(GRPOGuard.Config(), SamplerConfig(rule="ode"))
    for settings in ({"clip": 1.0}, {"kl_coefficient": -1.0}):
        with pytest.raises(ConfigError, match=f"{next(iter(settings))} must be"):
            guard(**settings)
