"""The sum of many backward passes' gradients, which does not depend on their order.

Added up in fp32, gradients depend in their last digits on the order and on who adds what first.  AdamW
divides each by its own size, so that where a gradient is little but rounding, a weight goes another way, and
from there on runs part.  fp64 has 29 bits more than the fp32 numbers that are added: their sum is exact as
long as they differ in size by less than 2^29 over their number, and is rounded once, when it is whole.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor
from torch.nn import Parameter

from rlnsp.distributed import Ranks


class GradientSum:
    """Of the backward passes so far, by parameter; 8 bytes a number."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parameters = parameters
        self.totals = [torch.zeros_like(value, dtype=torch.float64) for value in parameters]

    def any(self) -> bool:
        """Whether any of it is not zero."""
        return any(bool(total.any()) for total in self.totals)

    @contextmanager
    def taking(self) -> Iterator[None]:
        """While open, each backward pass adds its gradient here, and leaves none in the parameters."""
        hooks = []
        for parameter, total in zip(self.parameters, self.totals, strict=True):
            parameter.grad = None
            hooks.append(parameter.register_post_accumulate_grad_hook(partial(_take, total)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def put(self, ranks: Ranks) -> None:
        """Give the parameters the sum over all ranks, rounded to what they are held in."""
        ranks.add_up(self.totals)
        for parameter, total in zip(self.parameters, self.totals, strict=True):
            parameter.grad = total.to(parameter.dtype)


def _take(total: Tensor, parameter: Tensor) -> None:
    assert parameter.grad is not None
    total.add_(parameter.grad)
    parameter.grad = None
