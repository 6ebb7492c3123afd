from dataclasses import replace

import pytest
import torch

from rlnsp.algorithms.nft import NFT
from rlnsp.config import ConfigError
from rlnsp.credit import Credit
from rlnsp.protocols import SamplesWithAverage
from rlnsp.settings import SamplerConfig
from rlnsp.testing import check_algorithm
from tests.algorithms.trajectories import SAMPLER, gradient, largest, moved, scores, toy, trajectory

VALUES = (0.0, 1.0, 2.0, 5.0, 5.0, 8.0)


def nft(**settings):
    return NFT(NFT.Config(**settings), SAMPLER)


def credited(algorithm, policy):
    return algorithm.credit(trajectory(policy), scores(*VALUES))[0]


def test_it_keeps_to_the_seam():
    check_algorithm(lambda sampler: NFT(NFT.Config(), sampler))
    check_algorithm(lambda sampler: NFT(NFT.Config(), sampler), SamplerConfig(rule="ode", same_noise=False))


@pytest.mark.parametrize("beta", [0.2, 1.0])
@pytest.mark.parametrize("most", [5.0, 50.0])
def test_on_policy_its_gradient_is_the_matching_losss_weighted_by_the_advantage(beta, most):
    policy = toy()
    moved(policy)
    algorithm = nft(beta=beta, kl_coefficient=0.0, credit=Credit(advantage_clip=most))
    batch = credited(algorithm, policy)
    loss, stats = algorithm.loss(policy, batch)
    v = policy.velocity(batch.x, batch.sigma, batch.condition.take(batch.scene))
    error = batch.x - batch.sigma[:, None, None] * v - batch.x_next
    size = error.detach().abs().mean((1, 2))
    expected = (batch.advantage * error.square().mean((1, 2)) / size).mean()
    for ours, theirs in zip(gradient(loss, policy), gradient(expected, policy), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    assert stats["velocity_change_max"] == stats["velocity_change"] == 0


def test_its_anchor_is_the_velocity_of_the_policy_that_sampled():
    policy = toy()
    algorithm = nft()
    batch = credited(algorithm, policy)
    anchor = algorithm.anchor(policy, batch).detach()
    anchored = replace(batch, anchor=anchor)
    same, _ = algorithm.loss(policy, anchored)
    assert same.item() == algorithm.loss(policy, batch)[0].item()
    moved(policy)
    _, stats = algorithm.loss(policy, anchored)
    assert stats["velocity_change_max"] > 0
    change = algorithm.anchor(policy, batch) - anchor
    assert stats["velocity_change_max"] == change.abs().max().item()


def test_a_sample_neither_good_nor_bad_pulls_back_to_the_policy_that_sampled():
    policy = toy()
    algorithm = nft(kl_coefficient=0.0)
    batch = credited(algorithm, policy)
    batch = replace(batch, anchor=algorithm.anchor(policy, batch).detach(), advantage=0 * batch.advantage)
    assert largest(gradient(algorithm.loss(policy, batch)[0], policy)) < 1e-6
    moved(policy)
    loss, far = algorithm.loss(policy, batch)
    with torch.no_grad():
        for (_, value), g in zip(policy.named_trainable(), gradient(loss, policy), strict=True):
            value.sub_(1e-3 * g)
    assert algorithm.loss(policy, batch)[1]["velocity_change"] < far["velocity_change"]


def test_on_policy_the_gradient_is_the_same_without_undecided_samples():
    policy, batches, gradients = toy(), [], []
    moved(policy)
    for hold in (True, False):
        algorithm = nft(kl_coefficient=0.0, hold_undecided=hold)
        # The second scene's samples are all alike, and of the first one the middle sample is its mean.
        batch, _ = algorithm.credit(trajectory(policy), scores(1.0, 2.0, 3.0, 7.0, 7.0, 7.0))
        loss = algorithm.loss(policy, batch)[0] * (len(batch) / batch.total)
        batches.append(batch)
        gradients.append(gradient(loss, policy))
    held, without = batches
    assert (len(held), len(without)) == (held.total, held.total // 3)
    assert without.total == held.total
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_the_average_that_samples_is_slower_the_longer_it_goes():
    algorithm = nft(decay_rate=0.1, most_decay=0.25)
    assert isinstance(algorithm, SamplesWithAverage)
    assert [algorithm.decay(iteration) for iteration in (0, 1, 2, 3, 9)] == [0, 0.1, 0.2, 0.25, 0.25]


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="a group is one clip"):
        NFT(NFT.Config(), SamplerConfig(rule="ode"))
    with pytest.raises(ConfigError, match="num_levels must be at most"):
        nft(num_levels=5)
    for settings in (
        {"beta": 0.0},
        {"num_levels": 0},
        {"kl_coefficient": -1.0},
        {"decay_rate": -1.0},
        {"most_decay": 1.0},
    ):
        with pytest.raises(ConfigError, match=f"{next(iter(settings))} must be"):
            nft(**settings)
