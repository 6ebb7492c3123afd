"""How much likelier a recorded step has become, and how far the policy has moved, per latent dimension.

Everything here is a *mean* over a sample's latent dimensions D = N C, the convention behind every published
clip value; the joint quantity, in nats, is D times as large. All is in fp32 or wider.

Shapes: B samples, N latent tokens, C channels. std is (B, 1, 1) and positive: a deterministic step has no
density. mask is (B, N), True at the tokens that the step generated; tokens given as a condition are left
out of the density and of the count of dimensions.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from rlnsp.maths.schedule import at_least_fp32


def mean_log_ratio(
    x_next: Float[Tensor, " B N C"],
    mean: Float[Tensor, " B N C"],
    old_mean: Float[Tensor, " B N C"],
    std: Float[Tensor, " B 1 1"],
    mask: Bool[Tensor, " B N"] | None = None,
) -> Float[Tensor, " B"]:
    """Log-density of ``x_next`` under the new mean less that under the old one, per latent dimension.

    log N(x; mu, s^2) - log N(x; mu_old, s^2) = d (2 (x - mu_old) - d) / (2 s^2),   d = mu - mu_old

    The difference is taken before the square: exactly 0 where nothing changed, and no cancellation of two
    large logarithms where little did. The normalising constants cancel because the std does not depend on
    the policy.

    Args:
        x_next: what the old policy drew, (B, N, C).
        mean: of the policy being trained, (B, N, C).
        old_mean: of the policy that drew ``x_next``, (B, N, C).
        std: of the step, (B, 1, 1).
        mask: the generated tokens, (B, N); None: all.

    Returns:
        (B,).
    """
    x_next, mean, old_mean, std = at_least_fp32(x_next, mean, old_mean, std)
    change = mean - old_mean
    return mean_over_latent(change * (2 * (x_next - old_mean) - change) / (2 * std**2), mask)


def normalised_log_ratio(
    x_next: Float[Tensor, " B N C"],
    mean: Float[Tensor, " B N C"],
    old_mean: Float[Tensor, " B N C"],
    std: Float[Tensor, " B 1 1"],
    mask: Bool[Tensor, " B N"] | None = None,
) -> Float[Tensor, " B"]:
    """GRPO-Guard's RatioNorm (arXiv:2510.22319): the log ratio without its bias, of one scale at every step.

    std (log ratio + |d|^2 / (2 std^2)) = d (x_next - mu_old) / std,   d = mu - mu_old

    The log ratio's mean over what the old policy draws is -|d|^2 / (2 std^2), which pushes ratios below 1
    however the policy moves, and its spread goes with 1 / std.  This one has mean 0, and a spread that does
    not know the step.

    Args and returns as of ``mean_log_ratio``.
    """
    x_next, mean, old_mean, std = at_least_fp32(x_next, mean, old_mean, std)
    return mean_over_latent((mean - old_mean) * ((x_next - old_mean) / std), mask)


def kl_to_reference(
    mean: Float[Tensor, " B N C"],
    reference_mean: Float[Tensor, " B N C"],
    std: Float[Tensor, " B 1 1"],
    mask: Bool[Tensor, " B N"] | None = None,
) -> Float[Tensor, " B"]:
    """KL(policy || reference) of one step, per latent dimension, with gradient to ``mean``.

    KL = (mean - reference_mean)^2 / (2 std^2), the exact divergence of two Gaussians of one std. ``std`` is
    the step's, sqrt(-dt) included: without it a coefficient would mean something else at every step.

    Args:
        mean: of the policy, (B, N, C).
        reference_mean: of the reference, (B, N, C).
        std: of the step, (B, 1, 1).
        mask: the generated tokens, (B, N); None: all.

    Returns:
        (B,), never negative.
    """
    mean, reference_mean, std = at_least_fp32(mean, reference_mean, std)
    return mean_over_latent((mean - reference_mean) ** 2 / (2 * std**2), mask)


def clip_from_nats(clip_nats: float, latent_dims: int) -> float:
    """Turn a clip in nats of the joint density into a clip of the mean: clip = clip_nats / D.

    One clip on the mean allows a larger latent a larger joint change; a clip in nats does not.

    Args:
        clip_nats: how far the joint log ratio may move, above 0.
        latent_dims: D, the generated tokens times the channels.

    Raises:
        ValueError: the clip would be 1 or more, below which a ratio never falls, or not positive.
    """
    if not 0 < clip_nats < latent_dims:
        raise ValueError(
            f"clip_nats is {clip_nats} for a latent of {latent_dims} dimensions; "
            f"allowed is above 0 and below {latent_dims}"
        )
    return clip_nats / latent_dims


def mean_over_latent(
    terms: Float[Tensor, " B N C"], mask: Bool[Tensor, " B N"] | None
) -> Float[Tensor, " B"]:
    """Average over the tokens in ``mask`` and all channels; NaN for a sample that has no such token.

    Args:
        terms: one for each latent dimension, (B, N, C).
        mask: the generated tokens, (B, N); None: all.

    Returns:
        (B,).
    """
    if mask is None:
        return terms.flatten(1).mean(1)
    per_token = terms.mean(2)
    return per_token.where(mask, 0).sum(1) / mask.sum(1)
