"""Prodigy's step (Mishchenko and Defazio, arXiv:2306.06101) where processes hold parts of the weights.

Its scale d is the ratio of two sums over all numbers of all weights.  prodigyopt's ``fsdp_in_use`` would
count what every process has whole once for each of them, makes d a tensor, which a checkpoint's JSON cannot
hold, and wants a GPU.  So these lines do what its ``step`` does by the settings that the stages take, and
sum right.  Groups and state are prodigyopt's, so that a checkpoint does not say who stepped.
"""

import math
from collections.abc import Callable, Mapping

import torch
from prodigyopt import Prodigy
from torch import Tensor

from rlnsp.distributed import Ranks

FLAT = ("s", "p0")
"""State that has one dimension, whatever its parameter has."""


@torch.no_grad()
def step(
    optimizer: Prodigy, values: Mapping[str, Tensor], ranks: Ranks, counts: Callable[[str], bool]
) -> None:
    """One step of an optimiser in one group; all processes call this.

    Args:
        optimizer: whose only group has ``values``.
        values: this process's part of each weight, by name.
        ranks: the processes.
        counts: whether a sum over all of them has this one's part of a name in it: each number once.
    """
    (group,) = optimizer.param_groups
    beta1, beta2 = group["betas"]
    beta3, d, d0 = math.sqrt(beta2), group["d"], group["d0"]
    rate = d * group["lr"]
    moving = [(name, value) for name, value in values.items() if value.grad is not None]
    above = below = 0.0
    for name, value in moving:
        assert value.grad is not None
        state, gradient = optimizer.state[value], value.grad.flatten()
        if not state:
            state["step"] = 0
            state["s"] = torch.zeros_like(value).flatten()
            state["p0"] = value.flatten().clone()
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(value), torch.zeros_like(value)
        s = state["s"]
        moved = torch.dot(gradient, state["p0"] - value.flatten()).item()
        state["exp_avg"].mul_(beta1).add_(value.grad, alpha=d * (1 - beta1))
        state["exp_avg_sq"].mul_(beta2).addcmul_(value.grad, value.grad, value=d * d * (1 - beta2))
        s.mul_(beta3).add_(gradient, alpha=d / d0 * rate)
        if counts(name):
            above += d / d0 * rate * moved
            below += s.abs().sum().item()
    above, below = (sum(parts) for parts in zip(*ranks.exchange([above, below]), strict=True))
    if below == 0:
        return  # no gradient yet
    above += beta3 * group["d_numerator"]
    estimate = group["d_coef"] * above / below
    d = max(group["d_max"], estimate)
    group |= {"d_numerator": above, "d_denom": below, "d": d, "d_max": d, "d_hat": estimate}
    for _, value in moving:
        state = optimizer.state[value]
        state["step"] += 1
        value.add_(value, alpha=-group["weight_decay"] * rate)
        value.addcdiv_(state["exp_avg"], state["exp_avg_sq"].sqrt().add_(d * group["eps"]), value=-rate)
    group["k"] += 1
