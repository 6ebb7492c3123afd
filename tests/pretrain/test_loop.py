import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import Parameter

from pretrain.checkpoint import Checkpoint
from pretrain.local_shards import LocalShards
from pretrain.loop import LoopConfig, batch_indices, fit
from rlnsp.config import ConfigError
from rlnsp.distributed import RankEnded, Ranks
from rlnsp.interruption import Interrupted
from rlnsp.optimisation import TrainingFailed
from tests.pretrain.together import together

TARGET = torch.tensor([1.0, -2.0, 0.5])
GAIN = 0.02


class Killed(BaseException):
    """As good as a SIGKILL: nothing catches it."""


def quadratic(seed: int = 0) -> dict[str, Parameter]:
    """One parameter that starts at zero, which Prodigy keeps no copy of, one that does not, and a gain."""
    start = torch.randn(3, generator=torch.Generator().manual_seed(seed))
    gain = torch.tensor([0.01 * (seed + 1)])
    return {"gain": Parameter(gain), "zero": Parameter(torch.zeros(3)), "drawn": Parameter(start)}


def loss_at(
    parameters: dict[str, Parameter], at: int | None = None, action: Callable[[], None] = lambda: None
) -> Callable[[Tensor, Generator], list[Tensor]]:
    """A noisy quadratic of rows and generator; does ``action`` at call ``at``."""
    calls = 0

    def loss(rows: Tensor, generator: Generator) -> list[Tensor]:
        nonlocal calls
        if calls == at:
            action()
        calls += 1
        noise = 0.1 * torch.randn(3, generator=generator) + 0.01 * rows.float().mean()
        errors = parameters["zero"] - TARGET - noise, parameters["drawn"] - TARGET, parameters["gain"] - GAIN
        return [error.square().mean() for error in errors]

    return loss


def run(parameters: dict[str, Parameter], config: LoopConfig, folder: Path, *loss: object) -> list[dict]:
    """Fit, and what was logged apart from the time."""
    measured = loss_at(parameters)
    fit(
        "stage",
        parameters,
        loss_at(parameters, *loss),  # type: ignore[arg-type]
        lambda: sum(part.item() for part in measured(torch.zeros(1), Generator().manual_seed(0))),
        5,
        config,
        folder,
    )
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def kill() -> None:
    raise Killed


def test_each_epoch_has_every_row_once() -> None:
    rows = torch.cat([batch_indices(7, 3, seed=1, step=step) for step in range(14)])
    for epoch in rows.split(7):
        assert sorted(epoch.tolist()) == list(range(7))
    assert rows[:7].tolist() != rows[7:14].tolist()


def test_batches_are_a_function_of_seed_and_step() -> None:
    assert torch.equal(batch_indices(50, 8, 3, 11), batch_indices(50, 8, 3, 11))
    assert not torch.equal(batch_indices(50, 8, 3, 11), batch_indices(50, 8, 4, 11))
    threes = torch.cat([batch_indices(7, 3, 1, step) for step in range(4)])
    assert torch.equal(threes, torch.cat([batch_indices(7, 4, 1, step) for step in range(3)]))


def test_a_batch_may_hold_more_rows_than_there_are() -> None:
    assert sorted(batch_indices(2, 6, 0, 0).tolist()) == [0, 0, 0, 1, 1, 1]


def test_the_learning_rate_warms_up_and_falls_to_a_twentieth() -> None:
    config = LoopConfig(steps=14, warmup=4)
    # Linear over 4 steps; then 0.05 + 0.95 (1 + cos(pi k / 10)) / 2, which is 0.525 half way.
    assert [config.scale(step) for step in (0, 1, 3, 4)] == [0.25, 0.5, 1.0, 1.0]
    assert config.scale(9) == pytest.approx(0.525)
    assert config.scale(14) == pytest.approx(0.05)
    assert config.scale(99) == pytest.approx(0.05)


def test_fit_finds_the_bottom_of_a_quadratic(tmp_path: Path) -> None:
    parameters = quadratic()
    rows = run(parameters, LoopConfig(steps=80, learning_rate=0.2, warmup=5, evaluate_every=40), tmp_path)
    assert [row["step"] for row in rows] == [40, 80]
    assert rows[-1]["heldout_loss"] < 0.05
    for name in ("zero", "drawn"):
        assert (parameters[name] - TARGET).abs().max() < 0.2
    assert parameters["gain"].item() == pytest.approx(GAIN, abs=2e-3)


def test_a_gain_moves_in_proportion_to_its_size(tmp_path: Path) -> None:
    # Adam's first step is the learning rate, in the sign of the gradient: upwards for both.
    parameters = {"gain": Parameter(torch.tensor([0.01])), "weight": Parameter(torch.full((2,), 0.5))}
    config = LoopConfig(steps=1, learning_rate=0.1, warmup=1, weight_decay=0.0)

    def loss(rows: Tensor, generator: Generator) -> list[Tensor]:
        return [-parameters["gain"].sum(), -parameters["weight"].sum()]

    fit("stage", parameters, loss, lambda: 0.0, 1, config, tmp_path)
    assert parameters["gain"].item() == pytest.approx(0.01 + 0.1 * 0.01)
    assert parameters["weight"].tolist() == pytest.approx([0.6, 0.6])


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize("optimizer", ["adamw", "prodigy"])
def test_killed_and_resumed_is_bitwise_the_straight_run(
    tmp_path: Path, optimizer: Literal["adamw", "prodigy"], ema_decay: float
) -> None:
    config = LoopConfig(
        steps=6,
        batch_size=2,
        optimizer=optimizer,
        learning_rate=1.0 if optimizer == "prodigy" else 0.1,
        warmup=2,
        ema_decay=ema_decay,
        evaluate_every=1,
        save_every=3,
    )
    straight = quadratic()
    expected = run(straight, config, tmp_path / "straight")
    with pytest.raises(Killed):
        run(quadratic(), config, tmp_path / "cut", 4, kill)
    resumed = quadratic(seed=1)
    assert run(resumed, config, tmp_path / "cut") == expected
    for name, value in straight.items():
        assert torch.equal(resumed[name], value)


def test_prodigys_scale_and_counts_come_back_as_they_were(tmp_path: Path) -> None:
    from prodigyopt import Prodigy

    def optimised(parameters: dict[str, Parameter], steps: int) -> Checkpoint:
        optimizer = Prodigy(list(parameters.values()))
        for _ in range(steps):
            for part in loss_at(parameters)(torch.zeros(1), Generator().manual_seed(0)):
                part.backward()
            optimizer.step()
        return Checkpoint(
            path=tmp_path / "checkpoint.safetensors",
            stage="stage",
            settings={},
            shards=LocalShards(parameters, Ranks()),
            ema=None,
            optimizer=optimizer,
        )

    saved, loaded = optimised(quadratic(), 3), optimised(quadratic(1), 0)
    saved.save(3, {})
    assert loaded.load() == (3, {})
    old, new = saved.optimizer.state_dict(), loaded.optimizer.state_dict()
    assert new["param_groups"][0]["d"] > new["param_groups"][0]["d0"]
    pairs = [(old["param_groups"][0], new["param_groups"][0])]
    for before, after in pairs + [(old["state"][row], new["state"][row]) for row in (0, 1, 2)]:
        assert before.keys() == after.keys()
        for key, value in before.items():
            if isinstance(value, Tensor):
                assert value.dtype == after[key].dtype, key
                assert torch.equal(value, after[key]), key
            else:
                assert after[key] == (list(value) if isinstance(value, tuple) else value), key


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_step_saves_and_stops(tmp_path: Path, number: signal.Signals, code: int) -> None:
    config = LoopConfig(steps=6, learning_rate=0.1, ema_decay=0.9, evaluate_every=6, save_every=100)
    straight, cut = quadratic(), quadratic()
    expected = run(straight, config, tmp_path / "straight")
    with pytest.raises(Interrupted) as stop:
        run(cut, config, tmp_path / "cut", 2, lambda: signal.raise_signal(number))
    assert stop.value.exit_code == code
    resumed = quadratic(seed=1)
    # Steps 0 to 2 are done: the fourth call of what is left is none.
    assert run(resumed, config, tmp_path / "cut", 3, kill) == expected
    for name, value in straight.items():
        assert torch.equal(resumed[name], value)


def test_a_finished_stage_does_not_train_twice(tmp_path: Path) -> None:
    config = LoopConfig(steps=3, learning_rate=0.1, ema_decay=0.9)
    first, again = quadratic(), quadratic(seed=1)
    run(first, config, tmp_path)
    run(again, config, tmp_path, 0, kill)
    for name, value in first.items():
        assert torch.equal(again[name], value)


def test_the_average_is_that_of_a_slow_loop(tmp_path: Path) -> None:
    parameters = {"w": Parameter(torch.tensor([3.0]))}
    weights: list[float] = []
    averages: list[float] = []

    def loss(rows: Tensor, generator: Generator) -> list[Tensor]:
        weights.append(parameters["w"].item())
        return [parameters["w"].square().sum()]

    def heldout() -> float:
        averages.append(parameters["w"].item())
        return 0.0

    config = LoopConfig(steps=40, learning_rate=0.1, warmup=1, ema_decay=0.5, evaluate_every=1)
    fit("stage", parameters, loss, heldout, 1, config, tmp_path)
    slow, expected = weights[0], []
    for step, weight in enumerate(weights[1:]):
        # The decay warms up as (step + 1) / (step + 10), up to the one that was asked for (from step 8 on).
        decay = min(0.5, (step + 1) / (step + 10))
        slow = decay * slow + (1 - decay) * weight
        expected.append(slow)
    assert averages[:-1] == pytest.approx(expected, abs=1e-5)
    assert parameters["w"].item() == averages[-1]


def test_a_loss_or_gradient_that_is_no_number_is_refused(tmp_path: Path) -> None:
    parameters = {"w": Parameter(torch.zeros(1))}
    config = LoopConfig(steps=2)
    with pytest.raises(FloatingPointError, match="stage: the loss is nan at step 0; lower learning_rate"):
        fit(
            "stage",
            parameters,
            lambda *_: [parameters["w"].sum() * torch.nan],
            lambda: 0.0,
            1,
            config,
            tmp_path,
        )
    with pytest.raises(FloatingPointError, match="the gradient's norm is inf at step 0"):
        fit("stage", parameters, lambda *_: [parameters["w"].sqrt().sum()], lambda: 0.0, 1, config, tmp_path)
    assert parameters["w"].item() == 0


def test_a_checkpoint_of_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    config = LoopConfig(steps=6, learning_rate=0.1, save_every=1)
    with pytest.raises(Killed):
        run(quadratic(), config, tmp_path, 2, kill)
    with pytest.raises(ConfigError, match=r"loop.learning_rate was 0.1, now 0.2\); set them back, remove"):
        run(quadratic(), LoopConfig(steps=6, learning_rate=0.2, save_every=1), tmp_path)
    other = {**quadratic(), "zero": Parameter(torch.zeros(4))}
    with pytest.raises(ConfigError, match="of another model; remove it to start stage anew"):
        run(other, config, tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="damaged"):
        run(quadratic(), config, tmp_path)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch_size": 0}, {"save_every": 0}, {"ema_decay": 1.0}])
def test_settings_that_cannot_be_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        LoopConfig(**wrong)


def shared_run(config: LoopConfig, folder: Path, drift: float = 0.0) -> Callable[[Ranks], dict[str, Tensor]]:
    """Each process has some of three terms of the loss, one process perhaps none."""

    def work(ranks: Ranks) -> dict[str, Tensor]:
        parameters = quadratic()
        terms = loss_at(parameters)

        def own(rows: Tensor, generator: Generator) -> list[Tensor]:
            if drift and ranks.rank:
                parameters["zero"].data.add_(drift)
            found = terms(rows, generator)
            return [found[place] for place in ranks.share(len(found))]

        fit("stage", parameters, own, lambda: 0.0, 5, config, folder, ranks)
        return {name: value.detach() for name, value in parameters.items()}

    return work


@pytest.mark.parametrize(("optimizer", "count"), [("adamw", 2), ("prodigy", 4)])
def test_several_processes_step_as_one_does(
    tmp_path: Path, optimizer: Literal["adamw", "prodigy"], count: int
) -> None:
    rate = 1.0 if optimizer == "prodigy" else 0.1
    config = LoopConfig(
        steps=12, optimizer=optimizer, learning_rate=rate, warmup=2, ema_decay=0.5, evaluate_every=4
    )
    alone = quadratic()
    expected = run(alone, config, tmp_path / "one")
    found = together(count, shared_run(config, tmp_path / "several"))
    for other in found:
        for name, value in alone.items():
            assert torch.equal(other[name], found[0][name])
            torch.testing.assert_close(other[name], value.detach(), rtol=1e-4, atol=1e-6)
    rows = [json.loads(line) for line in (tmp_path / "several" / "metrics.jsonl").read_text().splitlines()]
    for key in ("step", "loss", "grad_norm"):
        assert [row[key] for row in rows] == pytest.approx([row[key] for row in expected], rel=1e-3)


def test_weights_that_come_apart_are_noticed(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="stage: after step 1 the trained weights of rank 1 are not"):
        together(2, shared_run(LoopConfig(steps=3), tmp_path, drift=1e-3))


def test_a_batch_that_has_not_one_clip_a_process_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size is 2, but of 3 processes each has a part"):
        together(3, shared_run(LoopConfig(batch_size=2), tmp_path))


def test_an_evaluation_that_was_cut_short_is_made_when_the_stage_goes_on(tmp_path: Path) -> None:
    """The step before it is saved: what was evaluated is a part of the checkpoint."""
    config = LoopConfig(steps=4, learning_rate=0.1, evaluate_every=2, save_every=100)
    straight = run(quadratic(), config, tmp_path / "straight")
    parameters = quadratic()

    def ended() -> float:
        raise RankEnded("rank 1: gone")

    with pytest.raises(RankEnded):
        fit("stage", parameters, loss_at(parameters), ended, 5, config, tmp_path / "cut")
    assert (tmp_path / "cut" / "checkpoint.safetensors").is_file()
    assert run(quadratic(seed=1), config, tmp_path / "cut") == straight
