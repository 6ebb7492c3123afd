"""A small net of awkward shapes, spread over two processes, is trained and saved as in one."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from prodigyopt import Prodigy
from safetensors import safe_open
from torch import Generator, Tensor, nn
from torch.nn import Parameter

from benchmarks.two_processes import DEEPSPEED, FSDP2, ZERO2, ZERO3, launch
from pretrain import prodigy, stages
from pretrain.diffusion import DiffusionConfig
from pretrain.local_shards import LocalShards
from pretrain.loop import LoopConfig, fit
from pretrain.zero_shards import Window, ZeroModel, _window_of_stage_3
from rlnsp import zero
from rlnsp.config import ConfigError
from rlnsp.distributed import Ranks, join
from rlnsp.sharding import Sharding
from rlnsp.zero import Zero

CONFIGS = {
    "adamw": LoopConfig(steps=12, learning_rate=1e-2),
    "prodigy": LoopConfig(steps=12, learning_rate=1.0, optimizer="prodigy"),
}
CONFIGS = {
    name: replace(
        config, batch_size=3, warmup=2, ema_decay=0.8, save_every=5, max_grad_norm=0.5, evaluate_every=4
    )
    for name, config in CONFIGS.items()
}
STOPS_AT = 7


class Stopped(RuntimeError):
    """In the middle of a step, between two checkpoints."""


class Net(nn.Module):
    """Rows that two processes cannot share evenly, one row, zeros, and a number alone."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
            self.row = Parameter(torch.randn(1, 5))
            self.gain = Parameter(torch.tensor([0.3]))
        nn.init.zeros_(self.layers[2].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.layers(x + self.row)


class Model(nn.Module):
    """The net behind a layer that stays whole."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.net = nn.Linear(5, 5), Net()
        nn.init.eye_(self.before.weight)
        nn.init.zeros_(self.before.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.before(x))


def train(folder: Path, config: LoopConfig, ranks: Ranks, *, stops: bool = False) -> None:
    """All steps, or until the middle of one; of three rows a step one process has two."""
    model, steps = Model(), 0
    call: Callable[[Callable[[], Tensor]], Tensor] = lambda work: work()  # noqa: E731
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    trained: Any = parameters
    if isinstance(ranks.sharding, Sharding):
        alone = {model.net.gain}
        ranks.sharding.spread([model.net.layers, model.net], ranks.count, "cpu", whole=alone)
        trained = dict(model.named_parameters())
    if isinstance(ranks.sharding, Zero):
        taken = ZeroModel(model, ["before", "net"], ranks, ranks.sharding)
        trained, call = taken.shards(parameters), taken.compute
    ranks.sharded = ranks.sharding is not None

    def loss(rows: Tensor, generator: Generator) -> Iterator[Tensor]:
        nonlocal steps
        steps += 1
        if stops and steps > STOPS_AT:
            raise Stopped
        # Far from what the net says, so that Prodigy soon finds a scale.
        x, y = (torch.randn(len(rows), width, generator=generator) + 8 - width for width in (5, 3))
        for first in range(0, len(rows), ranks.count):
            at = first + ranks.rank
            here = at < len(rows)
            at_work = (lambda at=at: (model(x[at]) - y[at]).square().sum()) if here else idle
            yield 5 * call(at_work) / len(rows)

    def idle() -> Tensor:
        return 0 * model(torch.zeros(5)).sum()

    def heldout() -> float:
        return call(lambda: model(torch.ones(5)).square().sum()).item()

    fit("stage", trained, loss, heldout, 8, config, folder, ranks)


def work(folder: Path) -> int:
    """What each of two processes does."""
    ranks = join(60.0)
    zero.WHOLE_BELOW = 0  # or all weights of so small a net
    for name, config in CONFIGS.items():
        train(folder / name / "straight", config, ranks)
        train(folder / name / "from one", config, ranks)
        with pytest.raises(Stopped):
            train(folder / name / "to one", config, ranks, stops=True)
    with pytest.raises(ConfigError, match=r"adamw_8bit.*take adamw"):
        train(folder / "8bit", eight_bit(), ranks)
    ranks.close()
    return 0


def eight_bit() -> LoopConfig:
    """As if bitsandbytes were here."""
    config = replace(CONFIGS["adamw"])
    object.__setattr__(config, "optimizer", "adamw_8bit")
    return config


def saved(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checkpoint's tensors and its notes."""
    with safe_open(folder / "checkpoint.safetensors", framework="pt") as file:
        notes = {key: json.loads(value) for key, value in file.metadata().items() if key != "stage"}
        return {key: file.get_tensor(key) for key in file.keys()}, notes  # noqa: SIM118


def heldout_losses(folder: Path) -> list[float]:
    """By the averaged weights, after every fourth step."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8, 12]
    return [row["heldout_loss"] for row in rows]


def assert_like(found: Path, expected: Path) -> None:
    """Two checkpoints after the last step are one: names, shapes, numbers."""
    (tensors, notes), (others, other_notes) = saved(found), saved(expected)
    assert notes["step"] == other_notes["step"] == 12
    assert notes["record"]["loss"] == pytest.approx(other_notes["record"]["loss"], rel=1e-5)
    assert notes["record"]["norm"] == pytest.approx(other_notes["record"]["norm"], rel=1e-4)
    assert notes["optimizer"]["numbers"] == other_notes["optimizer"]["numbers"]
    for group, other in zip(notes["optimizer"]["groups"], other_notes["optimizer"]["groups"], strict=True):
        assert group == {k: pytest.approx(v, rel=1e-4) if type(v) is float else v for k, v in other.items()}
    assert heldout_losses(found) == pytest.approx(heldout_losses(expected), rel=1e-4)
    assert tensors.keys() == others.keys()
    for key, value in others.items():
        if key.endswith(".p0") and not value.any():
            assert not tensors[key].any()  # prodigyopt keeps one zero for many
            continue
        torch.testing.assert_close(tensors[key], value, rtol=1e-4, atol=2e-6, msg=key)


@pytest.fixture
def _denormals_as_they_were() -> Iterator[None]:
    yield
    torch.set_flush_denormal(False)


@pytest.mark.usefixtures("_denormals_as_they_were")
def test_an_optimiser_that_cannot_step_on_a_part_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    ranks, output = Ranks(0, 2, sharding=Sharding()), tmp_path / "output"
    config = stages.SFTConfig(sft=DiffusionConfig(loop=eight_bit()), threads=1)
    with pytest.raises(ConfigError, match=r"^sft\.loop\.optimizer: adamw_8bit .* take adamw"):
        stages.sft(config, tmp_path, output, ranks)
    first = stages.PretrainConfig(text_to_video={"connect": config.sft}, threads=1)
    with pytest.raises(ConfigError, match=r"^text_to_video\.connect\.loop\.optimizer: adamw_8bit"):
        stages.pretrain(first, output, ranks)
    assert not output.exists()


@pytest.mark.parametrize("told", [FSDP2, ZERO2, ZERO3], ids=["FSDP2", "ZeRO-2", "ZeRO-3"])
def test_what_two_hold_together_is_trained_saved_and_resumed_as_what_one_has(
    tmp_path: Path, told: dict[str, str]
) -> None:
    start = {name: value.detach().clone() for name, value in Model().named_parameters()}
    one, two = tmp_path / "one", tmp_path / "two"
    for name, config in CONFIGS.items():
        train(one / name, config, Ranks())
        tensors, _ = saved(one / name)
        assert all((tensors[f"parameter.{key}"] - value).abs().max() > 1e-4 for key, value in start.items())
        with pytest.raises(Stopped):
            train(two / name / "from one", config, Ranks(), stops=True)
    processes = launch(work, (two,), tmp_path / "log", 2, told, [DEEPSPEED])
    for process in processes:
        process.join(150)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0], (tmp_path / "log.0").read_text()
    for name, config in CONFIGS.items():
        assert_like(two / name / "straight", one / name)
        assert_like(two / name / "from one", one / name)
        shutil.copytree(two / name / "to one", tmp_path / "went on" / name)
        train(tmp_path / "went on" / name, config, Ranks())
        assert_like(tmp_path / "went on" / name, one / name)


def test_of_a_small_weight_processes_behind_its_end_have_nothing() -> None:
    def window(rank: int) -> Window:
        flat = torch.arange(9.0)
        optimizer = SimpleNamespace(
            grad_position={7: (0, 3, 2)}, get_param_id=lambda value: 7, fp32_partitioned_groups_flat=[flat]
        )
        return _window_of_stage_3(SimpleNamespace(ds_numel=5), optimizer, Ranks(rank, 4))

    found = [window(rank) for rank in range(4)]
    assert [(one.first, one.count) for one in found] == [(0, 2), (2, 2), (4, 1), (5, 0)]
    assert [one.on(one.flat).tolist() for one in found] == [[[3, 4]], [[3, 4]], [[3]], [[]]]
    padded = [[3, 4], [3, 4], [3, 0], [0, 0]]  # what was in memory there might be no number, nor then a sum
    assert [one.flat.tolist() for one in found] == [[0, 1, 2, *two, 5, 6, 7, 8] for two in padded]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_prodigys_step_is_the_librarys_to_the_bit_where_nothing_is_spread(decay: Any) -> None:
    def stepped(
        step: Callable[[Prodigy, Mapping[str, Tensor]], Any],
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        model = Model()
        shards = LocalShards(dict(model.named_parameters()), Ranks())
        optimizer = Prodigy([*shards.own.values()], weight_decay=decay)
        generator = torch.Generator().manual_seed(0)
        for at in range(16):
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = 1 - at / 100
            if at != 1:
                (model(torch.randn(5, generator=generator)) - 3).square().sum().backward()
            step(optimizer, shards.own)
        return {k: v.detach() for k, v in shards.own.items()}, optimizer.param_groups[0]

    weights, group = stepped(lambda optimizer, own: prodigy.step(optimizer, own, Ranks(), lambda name: True))
    others, other = stepped(lambda optimizer, _: optimizer.step())
    assert group["d"] > 10 * group["d0"]
    assert all(weights[name].equal(value) for name, value in others.items())
    del group["params"], other["params"]
    assert group == other
