import math
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError

from rlnsp.maths.policy_gradient import (
    best_and_worst,
    clipped_surrogate,
    combine_rewards,
    group_advantages,
    masked_surrogate,
    past_clip,
    reinforce,
    standardise,
)

NAN = math.nan


def scores_of(n, seed=0):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed)).double()


# advantages


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        # Group 7 scores 1, 3: mean 2, population std 1.  Group 3 scores 0, 4, 2: mean 2, std sqrt(8 / 3).
        ("group", [-1, -2 / math.sqrt(8 / 3), 1, 2 / math.sqrt(8 / 3), 0]),
        # The batch 1, 0, 3, 4, 2: mean 2, squares 1 + 4 + 1 + 4 + 0 = 10, std sqrt(2).
        ("batch", [-1 / math.sqrt(2), -math.sqrt(2), 1 / math.sqrt(2), math.sqrt(2), 0]),
        ("none", [-1, -2, 1, 2, 0]),
    ],
)
def test_advantages_are_the_ones_worked_out_by_hand_in_groups_that_do_not_lie_together(scale, expected):
    got = group_advantages(torch.tensor([1.0, 0, 3, 4, 2]), torch.tensor([7, 3, 7, 3, 3]), scale)
    assert got.tolist() == pytest.approx(expected, rel=1e-6)


def test_the_batchs_spread_is_that_of_the_scores_not_of_the_advantages():
    got = group_advantages(torch.tensor([0.0, 2, 10, 12]), torch.tensor([0, 0, 1, 1]), "batch")
    assert got.tolist() == pytest.approx(
        [x / math.sqrt(26) for x in (-1, 1, -1, 1)]
    )  # (36 + 16 + 16 + 36) / 4 = 26


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_are_zero_mean_in_every_group_and_permute_with_the_batch(scale):
    scores, group = scores_of(24), torch.arange(24) % 3
    got = group_advantages(scores, group, scale)
    assert [got[group == g].mean().abs().item() < 1e-12 for g in range(3)] == [True] * 3
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(group_advantages(scores[order], group[order], scale), got[order])


def test_advantages_scaled_by_the_group_do_not_change_with_the_units_of_the_score():
    scores, group = scores_of(24), torch.arange(24) % 3
    torch.testing.assert_close(
        group_advantages(50 * scores - 7, group, "group"), group_advantages(scores, group, "group")
    )


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("size", [1, 3, 8, 24])
def test_a_group_of_equal_scores_has_exactly_zero_advantage_beside_a_group_that_differs(scale, size):
    for score in 30 * scores_of(50).float():  # in fp32 the mean of equal numbers need not equal them
        scores = torch.cat([score.repeat(size), torch.tensor([0.0, 1.0])])
        got = group_advantages(scores, torch.tensor([4] * size + [1, 1]), scale)
        assert not got[:size].any()
        assert got[size:].tolist()[0] == -got[size:].tolist()[1] < 0


def test_a_spread_of_rounding_error_is_not_scaled_up_to_an_advantage():
    got = group_advantages(torch.tensor([0.0, 2e-9]), torch.zeros(2).long(), "group")
    assert got.tolist() == pytest.approx([-1e-3, 1e-3])  # (1e-9 off the mean) / 1e-6


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_unscored_samples_get_no_advantage_and_leave_the_others_as_if_they_were_not_there(scale):
    scores, group = scores_of(12), torch.arange(12) % 3
    scores[[0, 5]] = NAN
    got, scored = group_advantages(scores, group, scale), ~scores.isnan()
    assert got[~scored].tolist() == [0, 0]
    torch.testing.assert_close(
        got[scored], group_advantages(scores[scored], group[scored], scale), rtol=0, atol=0
    )
    assert got[scored].all()


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_where_nothing_was_scored_every_advantage_is_zero(scale):
    assert group_advantages(torch.full((4,), NAN), torch.tensor([0, 0, 1, 1]), scale).tolist() == [0] * 4


def test_advantages_of_bf16_scores_are_fp32():
    assert group_advantages(torch.tensor([0, 1]).bfloat16(), torch.zeros(2).long()).dtype == torch.float32


# selection


def test_the_best_and_the_worst_of_each_group_are_taken():
    scores = torch.tensor([5.0, 1, 3, 2, 4, 0, 9, 8, 7])
    group = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1])
    assert best_and_worst(scores, group, 2, 1).nonzero().flatten().tolist() == [0, 4, 5, 6, 7, 8]
    assert best_and_worst(scores, group, 1, 2).nonzero().flatten().tolist() == [0, 1, 5, 6, 7, 8]
    assert best_and_worst(scores, group, 0, 1).nonzero().flatten().tolist() == [5, 8]
    assert best_and_worst(scores, group, 1, 0).nonzero().flatten().tolist() == [0, 6]


@pytest.mark.parametrize(
    ("scores", "taken"),  # the best 2 and the worst 3 of 8
    [
        ([1, 1, 1, 1, 1, 1, 1, 1], [0, 1, 2, 3, 4]),  # all equal: the earliest, best and worst alike
        (
            [0, 0, 0, 1, 0, 0, 0, 0],
            [3, 0, 1, 2, 4],
        ),  # one pass: a fail fills the best, the next fails are the worst
        ([1, 1, 0, 1, 1, 1, 1, 1], [0, 1, 2, 3, 4]),  # one fail: passes fill the worst
        ([1, 0, 1, 0, 1, 0, 1, 0], [0, 2, 1, 3, 5]),
    ],
)
def test_among_equal_scores_the_earlier_samples_are_taken_and_none_is_both(scores, taken):
    got = best_and_worst(torch.tensor(scores).float(), torch.zeros(8).long(), 2, 3)
    assert got.nonzero().flatten().tolist() == sorted(taken)


def test_ties_are_stable_in_groups_larger_than_an_unstable_sort_leaves_alone():
    scores = (torch.arange(200) % 2).float()
    got = best_and_worst(scores, torch.zeros(200).long(), 4, 4).nonzero().flatten().tolist()
    assert got == [0, 1, 2, 3, 4, 5, 6, 7]


def test_unscored_samples_are_never_taken_and_a_small_group_is_taken_whole():
    scores, group = torch.tensor([NAN, 1.0, NAN, 2.0, 0.0, 5.0]), torch.tensor([0, 0, 0, 0, 1, 1])
    assert best_and_worst(scores, group, 2, 2).tolist() == [False, True, False, True, True, True]


# several rewards


def test_sum_then_normalize_is_the_weighted_sum():
    raw = torch.tensor([[1.0, 2, 3, 4], [10, 0, 10, 0]])
    got = combine_rewards(raw, torch.tensor([2.0, 0.5]), torch.zeros(4).long(), "sum_then_normalize")
    assert got.tolist() == [7, 4, 11, 8]


def test_normalize_then_sum_weighs_each_rewards_advantages_within_its_group():
    raw, group = torch.tensor([[1.0, 3, 0, 4], [0, 100, 100, 0]]), torch.tensor([0, 0, 1, 1])
    got = combine_rewards(raw, torch.tensor([2.0, 0.5]), group, "normalize_then_sum")
    assert got.tolist() == pytest.approx([-2.5, 2.5, -1.5, 1.5])  # every advantage is +-1


def test_units_of_a_reward_matter_to_the_sum_and_not_to_the_normalized_sum():
    raw, weights, group = (
        torch.stack([scores_of(8), scores_of(8, 1)]),
        torch.ones(2).double(),
        torch.arange(8) % 2,
    )
    scaled = raw * torch.tensor([[1.0], [1000.0]])
    both = [combine_rewards(r, weights, group, "normalize_then_sum") for r in (raw, scaled)]
    torch.testing.assert_close(both[0], both[1])
    plain = combine_rewards(scaled, weights, group, "sum_then_normalize")
    assert torch.corrcoef(torch.stack([plain, scaled[1]]))[0, 1] > 0.9999


@pytest.mark.parametrize("how", ["normalize_then_sum", "sum_then_normalize"])
def test_a_sample_that_one_reward_could_not_score_is_unscored_and_outside_every_rewards_statistics(how):
    raw, group = torch.stack([scores_of(6), scores_of(6, 1)]), torch.zeros(6).long()
    raw[1, 2] = NAN
    weights = torch.ones(2).double()
    got, rest = combine_rewards(raw, weights, group, how), torch.tensor([0, 1, 3, 4, 5])
    assert got.isnan().nonzero().flatten().tolist() == [2]
    torch.testing.assert_close(got[rest], combine_rewards(raw[:, rest], weights, group[rest], how))


@pytest.mark.parametrize("how", ["normalize_then_sum", "sum_then_normalize"])
def test_a_reward_of_weight_zero_takes_no_part_even_where_it_is_missing(how):
    raw, group = (
        torch.stack([scores_of(6), torch.full((6,), NAN, dtype=torch.float64)]),
        torch.zeros(6).long(),
    )
    got = combine_rewards(raw, torch.tensor([1.0, 0.0]), group, how)
    torch.testing.assert_close(got, combine_rewards(raw[:1], torch.ones(1), group, how))
    with pytest.raises(ValueError, match="every reward has weight 0"):
        combine_rewards(raw, torch.zeros(2), group, how)


@pytest.mark.parametrize("how", ["normalize_then_sum", "sum_then_normalize"])
def test_equal_samples_combine_to_exactly_equal_scores(how):
    for i in range(20):
        raw = scores_of(7, seed=i).float()[:, None].repeat(1, 37)
        got = combine_rewards(raw, scores_of(7, seed=i + 50).float(), torch.zeros(37).long(), how)
        assert got.min() == got.max()


# the loss


@pytest.mark.parametrize(
    (
        "log_ratio",
        "advantage",
        "loss",
        "slope",
    ),  # clip = 0.2; slope = d loss / d log_ratio = -r A unless clipped
    [
        (0.0, 1.0, -1.0, -1.0),  # on policy: the REINFORCE gradient, -A
        (0.0, -2.0, 2.0, 2.0),
        (0.1, 1.0, -math.exp(0.1), -math.exp(0.1)),  # inside the clip
        (-0.1, -1.0, math.exp(-0.1), math.exp(-0.1)),
        (1.0, 1.0, -1.2, 0.0),  # a good sample, already past 1.2: clipped, no gradient
        (1.0, -1.0, math.e, math.e),  # a bad sample made likelier: never clipped
        (-1.0, 1.0, -1 / math.e, -1 / math.e),  # a good sample made less likely: never clipped
        (-1.0, -1.0, 0.8, 0.0),  # a bad sample, already below 0.8: clipped
    ],
)
def test_the_clipped_surrogate_has_the_value_and_the_slope_of_each_case(log_ratio, advantage, loss, slope):
    log_ratio = torch.tensor([log_ratio], dtype=torch.float64, requires_grad=True)
    out = clipped_surrogate(log_ratio, torch.tensor([advantage], dtype=torch.float64), clip=0.2)
    (gradient,) = torch.autograd.grad(out.sum(), log_ratio)
    assert out.item() == pytest.approx(loss, rel=1e-12)
    assert gradient.item() == pytest.approx(slope, rel=1e-12, abs=0)


def test_an_advantage_of_zero_gives_no_loss_and_no_gradient():
    log_ratio = torch.tensor([-3.0, 0.0, 3.0], requires_grad=True)
    out = clipped_surrogate(log_ratio, torch.zeros(3), clip=0.2)
    (gradient,) = torch.autograd.grad(out.sum(), log_ratio)
    assert not out.any()
    assert not gradient.any()


def test_ratios_of_bf16_log_ratios_are_fp32():
    log_ratio = torch.full((1,), 2.0**-10).bfloat16()
    out = clipped_surrogate(log_ratio, torch.ones(1).bfloat16(), clip=0.2)
    assert out.dtype == torch.float32
    assert out.item() == pytest.approx(-math.exp(2.0**-10), rel=1e-6)  # bf16 would round it to -1


def test_an_unknown_scale_or_way_to_combine_is_refused():
    scores, group = torch.zeros(2), torch.zeros(2).long()
    unknown: Any = "add_up"
    # Where shapes are checked, as in these tests, the checker may refuse first, in its own words.
    with pytest.raises((ValueError, TypeCheckError), match="add_up"):
        group_advantages(scores, group, unknown)
    with pytest.raises((ValueError, TypeCheckError), match="add_up"):
        combine_rewards(scores[None], torch.ones(1), group, unknown)


# other surrogates


@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize("log_ratio", [-0.4, -0.1, 0.0, 0.1, 0.4])
def test_past_the_clip_is_where_the_clipped_surrogate_has_no_gradient(log_ratio, advantage):
    ratio = torch.tensor([log_ratio], dtype=torch.float64, requires_grad=True)
    a = torch.tensor([advantage], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(clipped_surrogate(ratio, a, clip=0.2).sum(), ratio)
    assert past_clip(ratio.detach(), a, clip=0.2).tolist() == [gradient.item() == 0]


def test_an_advantage_of_zero_is_past_no_clip():
    assert past_clip(torch.tensor([-1.0, 1.0]), torch.zeros(2), clip=0.2).tolist() == [False, False]


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "divergence", "masked"),
    [
        (0.1, 2.0, 0.5, True),  # moved the advantage's way, too far
        (-0.1, -2.0, 0.5, True),
        (0.1, 2.0, 0.3, False),  # not beyond the threshold
        (0.1, -2.0, 0.5, False),  # on its way back
        (-0.1, 2.0, 0.5, False),
        (0.0, 2.0, 0.5, False),  # has not moved at all
    ],
)
def test_the_masked_surrogate_has_the_value_and_the_slope_of_each_case(
    log_ratio, advantage, divergence, masked
):
    ratio = torch.tensor([log_ratio], dtype=torch.float64, requires_grad=True)
    rest = (torch.tensor([value], dtype=torch.float64) for value in (advantage, divergence))
    loss, where = masked_surrogate(ratio, *rest, threshold=0.3)
    (slope,) = torch.autograd.grad(loss.sum(), ratio)
    expected = 0.0 if masked else -math.exp(log_ratio) * advantage
    assert where.tolist() == [masked]
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert slope.item() == pytest.approx(expected, rel=1e-12)


def test_no_gradient_flows_through_the_masks_divergence():
    divergence = torch.tensor([0.1, 0.5], requires_grad=True)
    log_ratio = torch.tensor([0.1, 0.1], requires_grad=True)
    loss, _ = masked_surrogate(log_ratio, torch.ones(2), divergence, 0.3)
    _, none = torch.autograd.grad(loss.sum(), [log_ratio, divergence], allow_unused=True)
    assert none is None


def test_reinforce_has_the_slope_of_the_advantage_however_far_the_ratio_is():
    log_ratio = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    loss = reinforce(log_ratio, torch.tensor([3.0, -1.0, 0.5]))
    (slope,) = torch.autograd.grad(loss.sum(), log_ratio)
    assert loss.tolist() == [3.0, 0.0, -1.0]
    assert slope.tolist() == [-3.0, 1.0, -0.5]


# a baseline of its own


def test_scores_are_standardised_by_the_baseline_and_not_by_themselves():
    # 0, 4: mean 2, population std 2.
    assert standardise(torch.tensor([6.0, 2.0]), torch.tensor([0.0, 4.0])).tolist() == [2.0, 0.0]


def test_a_baseline_of_equal_scores_gives_exactly_nothing():
    scores = torch.full((3,), 0.1)
    assert standardise(scores, scores.repeat(5)).tolist() == [0.0] * 3
    assert standardise(scores[:0], scores).tolist() == []


def test_a_near_tie_in_the_baseline_is_not_blown_up():
    baseline = torch.tensor([1.0, 1.0, 1.0 + 1e-12], dtype=torch.float64)
    assert standardise(baseline, baseline).abs().max() < 1e-5
