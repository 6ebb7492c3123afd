import math
from dataclasses import replace

import pytest
import torch

from rlnsp.algorithms.grpo import GRPO
from rlnsp.config import ConfigError
from rlnsp.credit import Credit
from rlnsp.settings import SamplerConfig
from rlnsp.testing import ToyPolicy, check_algorithm
from rlnsp.types import Scores
from tests.algorithms.trajectories import SAMPLER, gradient, largest, moved, scores, trajectory


def grpo(credit=None, **settings):
    return GRPO(GRPO.Config(credit=Credit(**(credit or {})), **settings), SAMPLER)


def test_grpo_keeps_to_the_seam():
    check_algorithm(lambda sampler: GRPO(GRPO.Config(), sampler))
    check_algorithm(
        lambda sampler: GRPO(GRPO.Config(kl_coefficient=0.1, credit=Credit(best_k=1, worst_k=1)), sampler)
    )


def test_every_step_of_a_sample_has_its_advantage_over_its_group():
    # Group 0 has scores 0, 1, 2: mean 1, population std sqrt(2/3).
    batch, stats = grpo().credit(trajectory(), scores(0.0, 1.0, 2.0, 5.0, 5.0, 8.0))
    assert stats["zero_variance_groups"] == 0
    a = 1 / math.sqrt(2 / 3)
    b = 1 / math.sqrt(2)
    expected = [-a, -a, a, a, -b, -b, -b, -b, 2 * b, 2 * b]  # the middle of group 0 has advantage 0
    torch.testing.assert_close(batch.advantage, torch.tensor(expected))
    assert batch.scene.tolist() == [0] * 4 + [1] * 6
    assert batch.total == 12


def test_rows_of_the_batch_are_the_trajectorys_steps():
    made = trajectory()
    batch, _ = grpo(kl_coefficient=0.1).credit(made, scores(0.0, 1.0, 2.0, 5.0, 5.0, 8.0))
    for name, recorded in (("x", made.x), ("x_next", made.x_next), ("rollout_mean", made.mean)):
        assert torch.equal(getattr(batch, name), recorded.reshape(12, *recorded.shape[2:]))
    assert torch.equal(batch.sigma, made.sigma.repeat(6))
    assert torch.equal(batch.sigma_next, made.sigma_next.repeat(6))


def test_equal_scores_leave_nothing_to_train_on_but_are_counted():
    batch, stats = grpo().credit(trajectory(), scores(*[0.1] * 6))
    assert len(batch) == 0
    assert batch.total == 12
    assert stats["zero_variance_groups"] == 1
    half, stats = grpo().credit(trajectory(), scores(1.0, 1.0, 1.0, 0.0, 0.0, 1.0))
    assert half.total == 12
    assert stats["zero_variance_groups"] == 0.5


def test_a_sample_that_was_not_scored_leaves_its_group():
    batch, _ = grpo(kl_coefficient=0.1).credit(trajectory(), scores(math.nan, 1.0, 3.0, 5.0, 5.0, 8.0))
    assert batch.total == len(batch) == 10
    torch.testing.assert_close(batch.advantage[:4], torch.tensor([-1.0, -1.0, 1.0, 1.0]))


def test_best_and_worst_are_chosen_after_the_groups_mean_is_taken():
    batch, _ = grpo({"best_k": 1, "worst_k": 1}).credit(trajectory(), scores(0.0, 1.0, 5.0, 0.0, 1.0, 5.0))
    std = math.sqrt((4 + 1 + 9) / 3)
    torch.testing.assert_close(batch.advantage[:4], torch.tensor([-2.0, -2.0, 3.0, 3.0]) / std)
    assert batch.total == 8


def test_advantages_are_clipped():
    batch, _ = grpo({"advantage_clip": 0.5}).credit(trajectory(), scores(0.0, 1.0, 2.0, 0.0, 1.0, 2.0))
    assert batch.advantage.abs().unique().tolist() == [0.5]


def test_rewards_are_normalised_before_they_are_summed_so_that_units_do_not_matter():
    small, large = [0.0, 1.0, 2.0, 0.0, 1.0, 2.0], [2000.0, 1000.0, 0.0, 0.0, 1000.0, 2000.0]
    both = scores(*small, big=large)
    batch, _ = grpo(kl_coefficient=0.1).credit(trajectory(), both)
    a = 1 / math.sqrt(2 / 3)
    expected = torch.tensor([0.0] * 6 + [-a, -a, 0, 0, a, a])  # in group 0 they cancel
    torch.testing.assert_close(batch.advantage, expected, rtol=0, atol=1e-6)
    batch, _ = grpo({"aggregation": "sum_then_normalize"}).credit(trajectory(), both)
    torch.testing.assert_close(batch.advantage[:4], torch.tensor([a, a, -a, -a]))


def test_of_one_reward_the_scale_is_what_was_asked_for_and_the_sign_that_of_its_weight():
    one = Scores(raw={"r": torch.tensor([0.0, 1.0, 2.0, 0.0, 1.0, 5.0])}, weights={"r": -1.0})
    batch, _ = grpo({"scale": "none"}).credit(trajectory(), one)
    torch.testing.assert_close(batch.advantage[::2], torch.tensor([1.0, -1, 2, 1, -3]))


def test_a_reward_of_weight_zero_has_no_say():
    values = (0.0, 1.0, 2.0, 5.0, 5.0, 8.0)
    both = replace(scores(*values, other=[math.nan] * 6), weights={"r": 1.0, "other": 0.0})
    for scale in ("group", "none"):
        alone, _ = grpo({"scale": scale}).credit(trajectory(), scores(*values))
        batch, _ = grpo({"scale": scale}).credit(trajectory(), both)
        assert torch.equal(batch.advantage, alone.advantage)


def test_the_first_gradient_is_that_of_reinforce():
    # At ratio 1, d(-r A) = -A d log_ratio, and log_ratio is the mean over D of -(x' - mean)^2 / (2 std^2).
    from rlnsp.rollout import transition

    policy = ToyPolicy(ToyPolicy.Config())
    algorithm = grpo()
    batch, _ = algorithm.credit(trajectory(policy), scores(0.0, 1.0, 2.0, 5.0, 5.0, 8.0))
    loss, stats = algorithm.loss(policy, batch)
    condition = batch.condition.take(batch.scene)
    mean, std = transition(policy, batch.x, batch.sigma, batch.sigma_next, condition, SAMPLER, 1.0)
    log_density = torch.distributions.Normal(mean, std).log_prob(batch.x_next).mean((1, 2))
    expected = -(batch.advantage * log_density).mean()
    for ours, theirs in zip(gradient(loss, policy), gradient(expected, policy), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert stats["log_ratio_max"] == 0
    assert stats["ratio"] == 1


def test_a_ratio_beyond_the_clip_in_the_advantages_direction_has_no_gradient():
    policy = ToyPolicy(ToyPolicy.Config())
    batch, _ = grpo(kl_coefficient=0.1).credit(trajectory(policy), scores(0.0, 1.0, 2.0, 5.0, 5.0, 8.0))
    batch = replace(batch, anchor=batch.rollout_mean)
    moved(policy)
    loss, stats = grpo(clip=0.9).loss(policy, batch)
    assert stats["log_ratio_max"] > 1e-3
    assert stats["clip_fraction"] == 0
    assert largest(gradient(loss, policy)) > 0
    one = batch.take(slice(0, 1))
    gains = []
    for sign in (1.0, -1.0):
        loss, stats = grpo(clip=1e-9).loss(policy, replace(one, advantage=torch.tensor([sign])))
        assert (largest(gradient(loss, policy)) == 0) == (stats["clip_fraction"] == 1)
        gains.append(stats["clip_fraction"])
    assert sorted(gains) == [0, 1]  # the ratio moved one way only
    for row in range(6):  # to either side, the movement is a size
        _, stats = grpo().loss(policy, batch.take(slice(row, row + 1)))
        assert stats["log_ratio_max"] == pytest.approx(abs(math.log(stats["ratio"])), rel=1e-2)


def test_a_clip_in_nats_is_that_of_the_joint_density():
    # D is 32 tokens of 3 channels.
    policy = ToyPolicy(ToyPolicy.Config())
    batch, _ = grpo(kl_coefficient=0.1).credit(trajectory(policy), scores(0.0, 1.0, 2.0, 5.0, 5.0, 8.0))
    batch = replace(batch, anchor=batch.rollout_mean)
    moved(policy)
    in_nats, as_mean = grpo(clip_nats=0.48).loss(policy, batch), grpo(clip=0.48 / 96).loss(policy, batch)
    assert in_nats[1] == as_mean[1]


def test_the_divergence_pulls_towards_the_reference():
    policy = ToyPolicy(ToyPolicy.Config())
    moved(policy)
    batch, _ = grpo(kl_coefficient=1.0).credit(trajectory(policy), scores(0.0, 1.0, 2.0, 5.0, 5.0, 8.0))
    calm = replace(batch, advantage=torch.zeros_like(batch.advantage))
    loss, before = grpo(kl_coefficient=1.0).loss(policy, calm)
    with torch.no_grad():
        for (_, value), g in zip(policy.named_trainable(), gradient(loss, policy), strict=True):
            value.sub_(1e-3 * g)
    _, after = grpo(kl_coefficient=1.0).loss(policy, calm)
    assert after["kl_reference"] < before["kl_reference"]


def test_steps_without_noise_are_refused():
    for sampler in (SamplerConfig(rule="ode"), SamplerConfig(noise_level=0.0)):
        with pytest.raises(ConfigError, match="grpo trains stochastic steps"):
            GRPO(GRPO.Config(), sampler)


@pytest.mark.parametrize("settings", [{"clip": 0.0}, {"clip_nats": -1.0}, {"kl_coefficient": -1.0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must be"):
        GRPO.Config(**settings)
