import json
import sys
import warnings
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import Parameter
from torch.optim import AdamW

from pretrain.local_shards import LocalShards
from pretrain.loop import LoopConfig, _optimizer
from rlnsp import optimizer_state
from rlnsp.distributed import Ranks
from rlnsp.optimisation import make_optimizer
from rlnsp.plan.estimate import STATE
from rlnsp.settings import ConfigError, TrainerConfig
from rlnsp.testing import ToyPolicy

SHAPE = 64, 128
"""Enough numbers that bitsandbytes takes 8 bits for each."""


@pytest.fixture
def eight_bit():
    """Settings that ask for it, where bitsandbytes is installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.jit, at the import
        pytest.importorskip("bitsandbytes", reason="pip install 'rlnsp[eight-bit]'")
    return TrainerConfig(optimizer="adamw_8bit", learning_rate=1e-2)


class Weights:
    """What the optimiser asks a policy for: a matrix, and a vector too short for 8 bits."""

    def __init__(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.matrix = Parameter(torch.randn(SHAPE, generator=generator))
        self.vector = Parameter(torch.randn(16, generator=generator))

    def named_trainable(self):
        return iter([("matrix", self.matrix), ("vector", self.vector)])

    def step(self, optimizer, number):
        """Towards a bottom that lies at 1, along a gradient with noise."""
        generator = torch.Generator().manual_seed(number)
        for _, value in self.named_trainable():
            value.grad = value.detach() - 1 + 0.1 * torch.randn(value.shape, generator=generator)
        optimizer.step()


def optimizer_of(weights: Any, settings):
    return make_optimizer(weights, settings)


def test_it_goes_the_way_of_adamw_with_two_bytes_a_number(eight_bit):
    own, plain = Weights(), Weights()
    start = own.matrix.detach().clone()
    optimizer = optimizer_of(own, eight_bit)
    reference = AdamW([plain.matrix, plain.vector], lr=1e-2, weight_decay=eight_bit.weight_decay)
    for number in range(20):
        own.step(optimizer, number)
        plain.step(reference, number)
    torch.testing.assert_close(own.vector, plain.vector)
    apart, moved = (own.matrix - plain.matrix).abs(), (plain.matrix - start).abs()
    assert 0 < apart.mean() < 0.02 * moved.mean()
    sizes = [value.nbytes for key, value in optimizer.state[own.matrix].items() if key in PER_NUMBER]
    assert sum(sizes) == own.matrix.numel() * STATE["adamw_8bit"]


PER_NUMBER = ("state1", "state2", "absmax1", "absmax2")


def test_saved_and_restored_it_goes_on_to_the_bit(eight_bit, tmp_path):
    straight = Weights()
    optimizer = optimizer_of(straight, eight_bit)
    for number in range(3):
        straight.step(optimizer, number)
    tensors, rest = optimizer_state.flatten(optimizer)
    save_file(tensors, tmp_path / "state.safetensors")
    again = Weights(seed=1)
    other = optimizer_of(again, eight_bit)
    with torch.no_grad():
        for (_, value), (_, same) in zip(straight.named_trainable(), again.named_trainable(), strict=True):
            same.copy_(value)
    optimizer_state.restore(other, load_file(tmp_path / "state.safetensors"), json.loads(json.dumps(rest)))
    for number in range(3, 6):
        straight.step(optimizer, number)
        again.step(other, number)
    for (name, value), (_, same) in zip(straight.named_trainable(), again.named_trainable(), strict=True):
        assert torch.equal(value, same), name
    assert other.state[again.matrix]["state1"].dtype == torch.uint8


def test_a_stage_takes_it_with_its_own_rate_for_a_gain(eight_bit):
    gain, matrix = Parameter(torch.tensor([0.01])), Parameter(torch.ones(SHAPE))
    shards = LocalShards({"gain": gain, "matrix": matrix}, Ranks())
    optimizer = _optimizer(shards, LoopConfig(optimizer="adamw_8bit", learning_rate=0.1))
    assert type(optimizer).__name__ == "AdamW8bit"
    assert [group["factor"] for group in optimizer.param_groups] == [1.0, pytest.approx(0.01)]


def test_without_bitsandbytes_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    says = r"python -m pip install 'rlnsp\[eight-bit\]', or set {}=adamw"
    with pytest.raises(ConfigError, match=says.format("trainer.optimizer")):
        make_optimizer(ToyPolicy(ToyPolicy.Config()), TrainerConfig(optimizer="adamw_8bit"))
    with pytest.raises(ConfigError, match=says.format("loop.optimizer")):
        LoopConfig(optimizer="adamw_8bit")
