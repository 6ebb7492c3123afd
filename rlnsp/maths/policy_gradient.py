"""Scores to advantages, and advantages to a loss.

Shapes: B samples (or transitions), R rewards. ``group`` is (B,), integers; samples of one scene share a
number, and need not lie together. A score of NaN says that the sample could not be scored: it has no part
in its group's statistics, and no advantage.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlnsp.maths.schedule import at_least_fp32

Scale = Literal["group", "batch", "none"]
Combine = Literal["normalize_then_sum", "sum_then_normalize"]

SMALLEST_SPREAD = (
    1e-6  # a spread below it counts as this much, so that rounding is not scaled up to an advantage
)


def group_advantages(
    scores: Float[Tensor, " B"], group: Int[Tensor, " B"], scale: Scale = "group"
) -> Float[Tensor, " B"]:
    """How much better a sample is than its group: (score - mean of the group) / spread.

    GRPO (arXiv:2402.03300), Section 4.1. A group whose scores are all equal gets exactly 0, which the mean
    of equal floating-point numbers does not give by itself.

    Args:
        scores: (B,); NaN where the sample could not be scored.
        group: (B,).
        scale: what the spread is: the population std of the sample's group; that of the whole batch's
            scores, which keeps a near-tie group's advantages small; or 1 (Dr. GRPO, arXiv:2503.20783).

    Returns:
        (B,), of mean zero over a group's scored samples; 0 where the score is NaN.

    Raises:
        ValueError: an unknown scale.
    """
    (scores,) = at_least_fp32(scores)
    scored = ~scores.isnan()
    advantages = torch.zeros_like(scores)
    advantages[scored] = _advantages(scores[scored], group[scored], scale)
    return advantages


def _advantages(scores: Tensor, group: Tensor, scale: Scale) -> Tensor:
    """``group_advantages`` where every sample is scored."""
    numbers, index = torch.unique(group, return_inverse=True)
    per_group = scores.new_zeros(len(numbers))
    count = per_group.scatter_add(0, index, torch.ones_like(scores))
    mean = per_group.scatter_add(0, index, scores) / count
    low = per_group.scatter_reduce(0, index, scores, "amin", include_self=False)
    high = per_group.scatter_reduce(0, index, scores, "amax", include_self=False)
    centred = torch.where((low == high)[index], 0.0, scores - mean[index])
    match scale:
        case "group":
            spread = (per_group.scatter_add(0, index, centred**2) / count).sqrt()[index]
        case "batch":
            spread = ((scores - scores.mean()) ** 2).mean().sqrt()
        case "none":
            return centred
        case _:
            raise ValueError(f"scale is {scale!r}; allowed are group, batch, none")
    return centred / spread.clamp(min=SMALLEST_SPREAD)


def standardise(scores: Float[Tensor, " B"], baseline: Float[Tensor, " H"]) -> Float[Tensor, " B"]:
    """How far scores are above a baseline's mean, in its population std; exactly 0 if all of it is equal.

    DDPO's per-prompt statistics (arXiv:2305.13301, Appendix B.2): the baseline is the latest scores of the
    scene, these among them.

    Args:
        scores: (B,), finite.
        baseline: (H,), finite; at least one.

    Returns:
        (B,).
    """
    scores, baseline = at_least_fp32(scores, baseline)
    if not len(scores) or baseline.min() == baseline.max():
        return torch.zeros_like(scores)
    mean = baseline.mean()
    spread = ((baseline - mean) ** 2).mean().sqrt()
    return (scores - mean) / spread.clamp(min=SMALLEST_SPREAD)


def best_and_worst(
    scores: Float[Tensor, " B"], group: Int[Tensor, " B"], k_best: int, k_worst: int
) -> Bool[Tensor, " B"]:
    """Mark each group's ``k_best`` highest and ``k_worst`` lowest samples, the ones worth training on.

    The best are taken first, then the worst from what is left, so no sample is both. Among equal scores the
    earlier sample goes first, in both. A group with fewer scored samples than that is taken whole; NaN is
    never taken.

    Args:
        scores: (B,); NaN where the sample could not be scored.
        group: (B,).
        k_best: how many of the highest.
        k_worst: how many of the lowest.

    Returns:
        (B,), True where taken.
    """
    taken = torch.zeros_like(scores, dtype=torch.bool)
    for number in group.unique():
        members = ((group == number) & ~scores.isnan()).nonzero().flatten()
        falling = members[scores[members].argsort(descending=True, stable=True)]
        taken[falling[:k_best]] = True
        rest = members[~taken[members]]
        rising = rest[scores[rest].argsort(stable=True)]
        taken[rising[:k_worst]] = True
    return taken


def combine_rewards(
    raw: Float[Tensor, " R B"], weights: Float[Tensor, " R"], group: Int[Tensor, " B"], how: Combine
) -> Float[Tensor, " B"]:
    """Make one score of several rewards, before ``group_advantages``.

    ``sum_then_normalize`` is the weighted sum: the reward with the widest spread decides.
    ``normalize_then_sum`` weighs each reward's advantages in the group instead, so that units do not matter
    (GDPO, arXiv:2601.05242; its batch-wise scale is ``group_advantages(..., "batch")`` of the result).

    Args:
        raw: (R, B); NaN where a reward could not score the sample.
        weights: (R,); a reward of weight 0 takes no part, its NaNs included.
        group: (B,).
        how: see above.

    Returns:
        (B,); NaN where any reward that takes part could not score the sample.

    Raises:
        ValueError: every weight is 0, or an unknown ``how``.
    """
    raw, weights = at_least_fp32(raw, weights)
    raw, weights = raw[weights != 0], weights[weights != 0]
    if not len(weights):
        raise ValueError("every reward has weight 0; give at least one a weight other than 0")
    missing = raw.isnan().any(0)
    # Every reward's statistics are over the same samples, those that all could score.
    raw = raw.masked_fill(missing, torch.nan)
    match how:
        case "sum_then_normalize":
            terms = list(raw)
        case "normalize_then_sum":
            terms = [group_advantages(scores, group, "group") for scores in raw]
        case _:
            raise ValueError(f"how is {how!r}; allowed are normalize_then_sum, sum_then_normalize")
    # One reward after the other: equal samples stay exactly equal, which a vectorised sum does not promise.
    combined = torch.zeros_like(raw[0])
    for weight, term in zip(weights, terms, strict=True):
        combined = combined + weight * term
    return combined.masked_fill(missing, torch.nan)


def clipped_surrogate(
    log_ratio: Float[Tensor, " B"], advantage: Float[Tensor, " B"], clip: float
) -> Float[Tensor, " B"]:
    """PPO's clipped loss, to minimise.  Schulman et al. (arXiv:1707.06347), equation 7.

    L = -min(r A, clip(r, 1 - clip, 1 + clip) A),   r = exp(log_ratio)

    The gradient is the policy gradient's until the ratio has moved past the clip *in the advantage's
    direction*, and 0 from there on.

    Args:
        log_ratio: (B,), with gradient.
        advantage: (B,).
        clip: on the ratio, so in the units of ``log_ratio``.

    Returns:
        (B,).
    """
    log_ratio, advantage = at_least_fp32(log_ratio, advantage)
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def past_clip(
    log_ratio: Float[Tensor, " B"], advantage: Float[Tensor, " B"], clip: float
) -> Bool[Tensor, " B"]:
    """Where ``clipped_surrogate`` has no gradient: the ratio is past the clip, the advantage's way."""
    return log_ratio.expm1() * advantage.sign() > clip


def masked_surrogate(
    log_ratio: Float[Tensor, " B"],
    advantage: Float[Tensor, " B"],
    divergence: Float[Tensor, " B"],
    threshold: float,
) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
    """Flow-DPPO's loss (arXiv:2606.11025), to minimise: -r A, and nothing where the policy moved too far.

    Too far is a divergence above the threshold with a ratio that has already moved the advantage's way; a
    ratio that has moved the other way is always let back.

    Args:
        log_ratio: (B,), with gradient.
        advantage: (B,).
        divergence: of the step, KL(policy || old policy), (B,); no gradient flows through it.
        threshold: on the divergence.

    Returns:
        the loss (B,), and where it is masked (B,).
    """
    log_ratio, advantage, divergence = at_least_fp32(log_ratio, advantage, divergence)
    masked = (divergence.detach() > threshold) & (log_ratio.detach() * advantage > 0)
    return (-log_ratio.exp() * advantage).masked_fill(masked, 0.0), masked


def reinforce(log_ratio: Float[Tensor, " B"], advantage: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """REINFORCE's loss, to minimise: -A log p, up to a constant (Williams 1992; DDPO_SF, arXiv:2305.13301).

    The log ratio has the gradient of log p.  Right on-policy only: nothing weighs a step that another policy
    drew.

    Args:
        log_ratio: (B,), with gradient.
        advantage: (B,).

    Returns:
        (B,).
    """
    log_ratio, advantage = at_least_fp32(log_ratio, advantage)
    return -advantage * log_ratio
