import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from rlnsp.plan.tally import tallied

WIDTH, ROWS = 64, 1024
MATRIX = WIDTH * WIDTH * 4
"""Bytes of a layer's weights,"""
ACTIVATION = ROWS * WIDTH * 4
"""and of what it makes."""


def layers(n, checkpointed=False):
    """n linear layers and SiLUs on the meta device."""

    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(n))

        def forward(self, x):
            for layer in self.layers:

                def block(x, layer=layer):
                    return nn.functional.silu(layer(x))

                x = checkpoint(block, x, use_reentrant=False) if checkpointed else block(x)
            return x

    with torch.device("meta"):
        return Stack()


def work(module, train):
    def done():
        with torch.set_grad_enabled(train):
            y = module(torch.empty(ROWS, WIDTH, requires_grad=train))
            if train:
                y.sum().backward()

    return done


def test_operations_are_two_a_weight_and_row_and_training_takes_three_times_that():
    forward = 2 * ROWS * WIDTH * WIDTH
    for n in (1, 3):
        module = layers(n)
        assert tallied(module, work(module, train=False)).flops == n * forward
        module = layers(n)
        assert tallied(module, work(module, train=True)).flops == 3 * n * forward


def test_attention_takes_four_a_pair_of_tokens_and_channel_and_its_backward_more():
    def attend(train):
        def done():
            with torch.set_grad_enabled(train):
                q = torch.empty(1, 2, ROWS, 32, requires_grad=train)
                y = scaled_dot_product_attention(q, q, q)
                if train:
                    y.sum().backward()

        return done

    forward = 4 * 2 * ROWS * ROWS * 32
    assert tallied(nn.Identity(), attend(train=False)).flops == forward
    assert tallied(nn.Identity(), attend(train=True)).flops == pytest.approx(3.5 * forward)


def test_the_peak_without_gradient_is_the_same_however_many_layers():
    """The stack's input, which the caller holds; a layer's input, its output, and the SiLU's."""
    for n in (2, 8):
        module = layers(n)
        assert tallied(module, work(module, train=False)).peak == 4 * ACTIVATION


def test_training_keeps_two_activations_a_layer_and_checkpointing_one():
    """The linear layer's input and the SiLU's; checkpointed, the block's input alone."""
    for checkpointed, kept in ((False, 2), (True, 1)):
        few, many = (tallied(m, work(m, train=True)).peak for m in (layers(n, checkpointed) for n in (4, 14)))
        # A layer's gradient is made too: of its weights, which stay.
        assert many - few == pytest.approx(10 * (kept * ACTIVATION + MATRIX), rel=0.15)


def test_the_weights_are_not_counted_and_need_not_fit_anywhere():
    with torch.device("meta"):
        module = nn.Linear(2**20, 2**20, bias=False)  # four terabytes
    found = tallied(module, work_of(module))
    assert found.flops == 2 * 2**40
    assert found.peak < 2**24


def work_of(module):
    def done():
        with torch.no_grad():
            module(torch.empty(1, 2**20))

    return done


def test_autocast_is_seen():
    """In bf16 an activation is half as large, beside a copy of the weights."""

    def done(module, dtype):
        def work():
            with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
                module(torch.empty(ROWS * 64, WIDTH))

        return work

    full, half = (
        tallied(m, done(m, dtype)).peak
        for m, dtype in ((layers(4), torch.float32), (layers(4), torch.bfloat16))
    )
    assert half < 0.8 * full
