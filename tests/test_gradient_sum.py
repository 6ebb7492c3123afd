from functools import reduce

import torch
from torch.nn import Parameter

from rlnsp.distributed import Ranks
from rlnsp.gradient_sum import GradientSum


def summed(gradients, dtype=torch.float32):
    """What a parameter ends up with after a backward pass for each of ``gradients``, (n, d)."""
    value = Parameter(torch.zeros(gradients.shape[1], dtype=dtype))
    total = GradientSum([value])
    with total.taking():
        for gradient in gradients.to(dtype):
            (value * gradient).sum().backward()
    total.put(Ranks())
    return gradient_of(value)


def gradient_of(value):
    assert value.grad is not None
    return value.grad


def test_the_sum_does_not_depend_on_the_order_to_the_bit():
    generator = torch.Generator().manual_seed(0)
    sizes = torch.logspace(-4, 0, 64)[torch.randperm(64, generator=generator)]
    gradients = sizes[:, None] * torch.randn(64, 500, generator=generator)
    assert torch.equal(summed(gradients), summed(gradients.flip(0)))
    # In fp32, one after the other, it would.
    one, other = (reduce(torch.add, rows) for rows in (gradients, gradients.flip(0)))
    assert not torch.equal(one, other)


def test_it_is_rounded_once_when_it_is_whole():
    # 1 + 2^-25 is 1 in fp32; what is left of it when the 1 has gone is not 0.
    assert summed(torch.tensor([[1.0], [2.0**-25], [-1.0]])).item() == 2.0**-25
    half = summed(torch.tensor([[1.0], [2.0**-9], [-1.0]]), torch.bfloat16)
    assert (half.dtype, half.item()) == (torch.bfloat16, 2.0**-9)


def test_a_parameter_that_no_pass_reaches_has_gradient_zero():
    used, idle = Parameter(torch.ones(2)), Parameter(torch.ones(3))
    idle.grad = torch.ones(3)  # of an earlier step
    total = GradientSum([used, idle])
    assert not total.any()
    with total.taking():
        used.sum().backward()
        assert used.grad is idle.grad is None
        assert total.any()
    total.put(Ranks())
    assert gradient_of(used).tolist() == [1, 1]
    assert gradient_of(idle).tolist() == [0, 0, 0]


def test_afterwards_backward_passes_are_as_ever():
    value = Parameter(torch.ones(2))
    total = GradientSum([value])
    with total.taking():
        value.sum().backward()
    value.sum().backward()
    assert gradient_of(value).tolist() == [1, 1]
    assert total.totals[0].tolist() == [1, 1]
