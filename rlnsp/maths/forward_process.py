"""Losses on the forward process: a sample is noised anew, and the velocity there is pulled or pushed.

Shapes and conventions as in ``rlnsp.maths.schedule``.  All is in fp32 or wider, and a *mean* over a sample's
latent dimensions.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from rlnsp.maths.density import mean_over_latent
from rlnsp.maths.schedule import at_least_fp32, data_estimate

SMALLEST_ERROR = 1e-5
"""Of ``nft_loss``'s normalisation, as in its authors' code."""


def optimality(advantage: Float[Tensor, " B"], most: float) -> Float[Tensor, " B"]:
    """The probability that a sample is a good one: r = clip(A / A_max, -1, 1) / 2 + 1/2.

    DiffusionNFT (arXiv:2509.16117).

    Args:
        advantage: (B,).
        most: A_max, above 0.
    """
    (advantage,) = at_least_fp32(advantage)
    return (advantage / most).clamp(-1, 1) / 2 + 0.5


def nft_loss(
    v: Float[Tensor, " B N C"],
    v_old: Float[Tensor, " B N C"],
    x: Float[Tensor, " B N C"],
    x0: Float[Tensor, " B N C"],
    sigma: Float[Tensor, " B"],
    r: Float[Tensor, " B"],
    beta: float,
) -> Float[Tensor, " B"]:
    """DiffusionNFT's loss (arXiv:2509.16117), to minimise.

    A good sample pulls the policy towards it, a bad one pulls the policy's mirror image, in the policy that
    sampled:

        v+ = beta v + (1 - beta) v_old      v- = (1 + beta) v_old - beta v
        L  = r |x0(v+) - x0|^2 / w+  +  (1 - r) |x0(v-) - x0|^2 / w-

    with x0(v) = x - sigma v, and w the mean absolute error of each, detached, which makes the scale of the
    loss that of a velocity at every sigma.

    Args:
        v: of the policy, with gradient, (B, N, C).
        v_old: of the policy that sampled, (B, N, C).
        x: the sample, noised, (B, N, C).
        x0: the sample, (B, N, C).
        sigma: (B,).
        r: in [0, 1], (B,); see ``optimality``.
        beta: how far the implicit policies are from the old one, above 0.

    Returns:
        (B,).
    """
    v, v_old, r = at_least_fp32(v, v_old, r)
    positive = beta * v + (1 - beta) * v_old
    negative = (1 + beta) * v_old - beta * v
    pull, push = (_normalised_error(data_estimate(x, w, sigma), x0) for w in (positive, negative))
    return r * pull + (1 - r) * push


def matching_log_ratio(
    v: Float[Tensor, " B N C"],
    v_old: Float[Tensor, " B N C"],
    target: Float[Tensor, " B N C"],
    mask: Bool[Tensor, " B N"] | None = None,
) -> Float[Tensor, " B"]:
    """Advantage-weighted matching's log ratio (arXiv:2509.25050): log p := -|v - (noise - x0)|^2.

    log p - log p_old = -d (2 (v_old - target) + d),   d = v - v_old

    The difference is taken before the square: exactly 0 where nothing changed.

    Args:
        v: of the policy, with gradient, (B, N, C).
        v_old: of the policy that sampled, (B, N, C).
        target: noise - x0, (B, N, C).
        mask: the generated tokens, (B, N); None: all.

    Returns:
        (B,).
    """
    v, v_old, target = at_least_fp32(v, v_old, target)
    change = v - v_old
    return mean_over_latent(-change * (2 * (v_old - target) + change), mask)


def _normalised_error(estimate: Tensor, x0: Tensor) -> Tensor:
    """|estimate - x0|^2 over the detached mean |estimate - x0|, (B,)."""
    error = (estimate - x0).flatten(1)
    return error.square().mean(1) / error.detach().abs().mean(1).clamp(min=SMALLEST_ERROR)
