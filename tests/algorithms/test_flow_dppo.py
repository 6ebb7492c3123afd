from dataclasses import replace

import pytest
import torch

from rlnsp.algorithms.flow_dppo import FlowDPPO
from rlnsp.algorithms.grpo import GRPO
from rlnsp.config import ConfigError
from rlnsp.settings import SamplerConfig
from rlnsp.testing import check_algorithm
from tests.algorithms.trajectories import SAMPLER, gradient, largest, off_policy, scores, toy, trajectory


def dppo(**settings):
    return FlowDPPO(FlowDPPO.Config(**settings), SAMPLER)


def test_it_keeps_to_the_seam():
    check_algorithm(lambda sampler: FlowDPPO(FlowDPPO.Config(), sampler))


def test_on_policy_its_gradient_is_grpos():
    policy = toy()
    made, said = trajectory(policy), scores(0.0, 1.0, 2.0, 5.0, 5.0, 8.0)
    gradients = []
    for algorithm in (dppo(), GRPO(GRPO.Config(), SAMPLER)):
        loss, stats = algorithm.loss(policy, algorithm.credit(made, said)[0])
        assert stats["log_ratio_max"] == stats["clip_fraction"] == 0
        gradients.append(gradient(loss, policy))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_step_that_moved_too_far_learns_only_its_way_back():
    algorithm, policy = dppo(), toy()
    batch = off_policy(algorithm, policy)
    _, stats = algorithm.loss(policy, batch)
    limits = {"near": 10 * stats["approx_kl"], "far": 0.01 * stats["approx_kl"]}
    one, masked = batch.take(slice(0, 1)), []
    for sign in (1.0, -1.0):
        for limit in limits:
            turned = replace(one, advantage=torch.tensor([sign]))
            loss, stats = dppo(max_divergence=limits[limit]).loss(policy, turned)
            assert (largest(gradient(loss, policy)) == 0) == (stats["clip_fraction"] == 1)
            masked.append((limit, stats["clip_fraction"]))
    # Its divergence is beyond one limit, and the ratio has moved one way.
    assert sorted(masked) == [("far", 0.0), ("far", 1.0), ("near", 0.0), ("near", 0.0)]


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="flow_dppo trains stochastic steps"):
        FlowDPPO(FlowDPPO.Config(), SamplerConfig(noise_level=0.0))
    for settings in ({"max_divergence": 0.0}, {"kl_coefficient": -1.0}):
        with pytest.raises(ConfigError, match=f"{next(iter(settings))} must be"):
            dppo(**settings)
