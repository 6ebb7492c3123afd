"""The straight path between noise and data, and the two estimates that a velocity gives at a point of it.

Conventions (the whole package): sigma is 1 at noise and 0 at data; x = (1 - sigma) x0 + sigma noise; the
velocity is v = dx/dsigma = noise - x0.

Shapes: B samples, *latent the axes of one latent (packed: N tokens, C channels).  sigma is (B,).
"""

import torch
from jaxtyping import Float
from torch import Tensor


def expand_to(value: Float[Tensor, " B"], like: Float[Tensor, " B *latent"]) -> Float[Tensor, " B ..."]:
    """Give ``value`` (B,) trailing axes of length one, until it broadcasts against ``like`` (B, ...)."""
    return value.reshape(value.shape + (1,) * (like.ndim - 1))


def at_least_fp32(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Bring tensors to one precision, their widest, and never below fp32.

    bf16 latents bias the log ratio of late steps by more than the usual clip.
    """
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)


def noised(
    x0: Float[Tensor, " B *latent"], noise: Float[Tensor, " B *latent"], sigma: Float[Tensor, " B"]
) -> Float[Tensor, " B *latent"]:
    """Mix data and noise: x = (1 - sigma) x0 + sigma noise, in fp32 or wider.

    Rectified flow (arXiv:2209.03003).

    Args:
        x0: data, (B, ...).
        noise: standard normal, (B, ...).
        sigma: in [0, 1], (B,).
    """
    x0, noise, sigma = at_least_fp32(x0, noise, sigma)
    s = expand_to(sigma, x0)
    return (1 - s) * x0 + s * noise


def data_estimate(
    x: Float[Tensor, " B *latent"], v: Float[Tensor, " B *latent"], sigma: Float[Tensor, " B"]
) -> Float[Tensor, " B *latent"]:
    """Estimate the data behind ``x``: x0 = x - sigma v, in fp32 or wider.

    For the exact velocity this is E[x0 | x].
    """
    x, v, sigma = at_least_fp32(x, v, sigma)
    return x - expand_to(sigma, x) * v


def noise_estimate(
    x: Float[Tensor, " B *latent"], v: Float[Tensor, " B *latent"], sigma: Float[Tensor, " B"]
) -> Float[Tensor, " B *latent"]:
    """Estimate the noise in ``x``: x1 = x + (1 - sigma) v, in fp32 or wider.

    For the exact velocity this is E[noise | x], and the score of the marginal is -x1 / sigma.
    """
    x, v, sigma = at_least_fp32(x, v, sigma)
    return x + (1 - expand_to(sigma, x)) * v
