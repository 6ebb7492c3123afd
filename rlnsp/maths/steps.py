"""One denoising step, deterministic or stochastic, as the Gaussian it draws from.

The same function samples a step and scores a recorded one, so that the two cannot disagree.

Shapes and conventions as in ``rlnsp.maths.schedule``; sigma_next < sigma, and dt = sigma_next - sigma < 0.
"""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from rlnsp.maths.schedule import at_least_fp32, expand_to, noise_estimate

Rule = Literal["ode", "flow_sde", "dance_sde", "cps"]


def step(
    rule: Rule,
    x: Float[Tensor, " B *latent"],
    v: Float[Tensor, " B *latent"],
    sigma: Float[Tensor, " B"],
    sigma_next: Float[Tensor, " B"],
    noise_level: float,
    std_cap: float | None = None,
) -> tuple[Float[Tensor, " B *latent"], Float[Tensor, " B ..."]]:
    """Mean and standard deviation of the next latent: x_next ~ N(mean, std^2 I).

    Every rule is the ODE step, less a pull along the noise estimate x1 = x + (1 - sigma) v that makes room
    for the fresh noise:  mean = x + v dt - pull x1. With noise level a:

        rule        std                                     pull
        ode         0                                       0
        flow_sde    a sqrt(sigma / (1 - sigma)) sqrt(-dt)   std^2 / (2 sigma)
        dance_sde   a sqrt(-dt)                             std^2 / (2 sigma)
        cps         sigma_next sin(a pi / 2)                sigma_next - sqrt(sigma_next^2 - std^2)

    These are, term by term, Flow-GRPO (arXiv:2505.05470), DanceGRPO (arXiv:2505.07818) and
    coefficients-preserving sampling (arXiv:2509.05952). At sigma = 1, flow_sde's denominator is
    1 - sigma_next.

    The two SDE rules keep the flow's marginals to first order in dt. cps keeps them exactly where the data
    is one point, and otherwise only to first order in std^2: its noise is per step, not per unit of sigma,
    so with more steps at one noise level the spread of the samples tends to cos(a pi / 4) of the data's,
    not to the data's.

    On the last step (sigma_next = 0) cps is deterministic and the SDE rules are not; what they add there is
    noise on the finished latent, so callers take the last step with ``ode``.

    Args:
        rule: see above.
        x: the latent, (B, ...).
        v: the velocity at ``x``, (B, ...).
        sigma: in (0, 1], (B,).
        sigma_next: in [0, sigma), (B,).
        noise_level: 0 is the ODE step, exactly, for every rule.  At most 1 for cps.
        std_cap: the largest std allowed. The pull follows from the std after capping, as if the noise level
            of that step were lower, so a capped step keeps the marginals as well as an uncapped one.

    Returns:
        mean, (B, ...), and std, (B, 1, ...); in fp32 or wider, whatever comes in. 0 < std wherever the step
        has a density.

    Raises:
        ValueError: an unknown rule, or a noise level outside what the rule allows.
    """
    x, v, sigma, sigma_next = at_least_fp32(x, v, sigma, sigma_next)
    x1 = noise_estimate(x, v, sigma)
    sigma, sigma_next = expand_to(sigma, x), expand_to(sigma_next, x)

    std = step_std(rule, sigma, sigma_next, noise_level, std_cap)
    pull = sigma_next - (sigma_next**2 - std**2).sqrt() if rule == "cps" else std**2 / (2 * sigma)
    mean = x + v * (sigma_next - sigma) - pull * x1
    return mean, std


def step_std(
    rule: Rule,
    sigma: Float[Tensor, " ..."],
    sigma_next: Float[Tensor, " ..."],
    noise_level: float,
    std_cap: float | None = None,
) -> Float[Tensor, " ..."]:
    """The standard deviation of a step, which is the same for every latent; arguments as of ``step``."""
    std = _uncapped_std(rule, sigma, sigma_next, noise_level)
    return std if std_cap is None else std.clamp(max=std_cap)


def _uncapped_std(rule: Rule, sigma: Tensor, sigma_next: Tensor, noise_level: float) -> Tensor:
    most = 1.0 if rule == "cps" else math.inf  # past 1 the sine falls again: two levels would mean one std
    if not 0 <= noise_level <= most:
        raise ValueError(f"noise_level is {noise_level} for the rule {rule!r}; allowed is 0 to {most:g}")
    match rule:
        case "ode":
            return torch.zeros_like(sigma)
        case "flow_sde":
            below_one = torch.where(sigma < 1, sigma, sigma_next)
            return noise_level * (sigma / (1 - below_one)).sqrt() * (sigma - sigma_next).sqrt()
        case "dance_sde":
            return noise_level * (sigma - sigma_next).sqrt()
        case "cps":
            return sigma_next * math.sin(noise_level * math.pi / 2)
        case _:
            raise ValueError(f"the step rule is {rule!r}; allowed are {', '.join(get_args(Rule))}")
