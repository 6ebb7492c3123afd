"""The loop that every stage of pre-training shares: steps, progress, held-out loss, checkpoints, resuming.

A stage is stopped and started again at will: batches are a function of (seed, step), or the checkpoint says
how far their source is, so a resumed stage goes on with exactly the batches that the straight one would see.

Of several processes each has the loss of its own part of a batch; the parts' gradients are added up, and each
then steps alike, or where FSDP2 spreads the weights each its own shard.  Process 0 writes.
"""

import io
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Protocol

import torch
from prodigyopt import Prodigy
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import Parameter

from pretrain.checkpoint import Checkpoint
from pretrain.local_shards import LocalShards
from rlnsp.distributed import RankEnded, Ranks
from rlnsp.eight_bit import adamw_8bit
from rlnsp.ema import EMA
from rlnsp.interruption import Interrupted, Interruption
from rlnsp.metrics import MetricsFile
from rlnsp.optimisation import compare
from rlnsp.settings import ConfigError

Loss = Callable[[Any, torch.Generator], Iterable[Tensor]]
"""(batch, generator) -> scalars whose sum, over all processes, is the loss; each is differentiated before the
next is computed."""

HELD_OUT_ROWS = 256
"""Clips that a held-out loss is taken over, at most."""
COMPARED = 10
"""The first steps after which several processes compare their weights."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long and how a stage trains."""

    steps: int = 1000
    batch_size: int = 64
    """Clips a step, of all processes."""
    optimizer: Literal["adamw", "adamw_8bit", "prodigy"] = "adamw"
    """``adamw_8bit``: with two bytes of state a parameter, not eight; by bitsandbytes."""
    learning_rate: float = 1e-3
    """Peak; 1.0 for Prodigy, which finds its own scale (arXiv:2306.06101)."""
    warmup: int = 50
    """Steps of linear warm-up; a cosine to a twentieth follows."""
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0
    """Of the trained weights; the average is what the stage writes.  0: the last weights."""
    evaluate_every: int = 250
    save_every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "evaluate_every", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not self.max_grad_norm > 0:
            raise ConfigError(f"max_grad_norm must be positive; got {self.max_grad_norm}")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay must be in [0, 1); got {self.ema_decay}")
        if self.optimizer == "adamw_8bit":
            adamw_8bit("loop.optimizer")  # before the stages that come first have run

    def scale(self, step: int) -> float:
        """The factor on the learning rate at ``step``."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        along = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(along, 1.0)))


class Batches(Protocol):
    """What is trained on, batch after batch."""

    def next(self, step: int) -> Any:
        """The batch of ``step``; steps come in order."""
        ...

    def state(self) -> Mapping[str, Any]:
        """How far it is, as JSON."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where ``state`` was taken."""
        ...


class RowBatches:
    """Row indices (B,) of data that is all in memory."""

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        self.n, self.batch_size, self.seed = n, batch_size, seed

    def next(self, step: int) -> Tensor:
        """See ``batch_indices``."""
        return batch_indices(self.n, self.batch_size, self.seed, step)

    def state(self) -> Mapping[str, Any]:
        """The step says all."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The step says all."""


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """(n,) long, the rows shuffled for an epoch."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def batch_indices(n: int, batch_size: int, seed: int, step: int) -> Tensor:
    """Rows of batch ``step`` when ``n`` rows are shuffled anew each epoch; (batch_size,) long."""
    first = step * batch_size
    rows = []
    for epoch in range(first // n, (first + batch_size - 1) // n + 1):
        order = epoch_order(n, seed, epoch)
        start, stop = max(first - epoch * n, 0), min(first + batch_size - epoch * n, n)
        rows.append(order[start:stop])
    return torch.cat(rows)


def check_spread(config: LoopConfig, *, spread: bool) -> None:
    """Raise ConfigError where trained weights are spread and the optimiser cannot step on a part of each."""
    if spread and config.optimizer == "adamw_8bit":
        raise ConfigError(
            "loop.optimizer: adamw_8bit has a scale for each 256 numbers of a weight, which would be cut "
            "elsewhere with every number of processes: take adamw, whose state is spread, or a config of "
            "accelerate by which each process has all weights"
        )


def fit(
    name: str,
    parameters: dict[str, Parameter] | LocalShards,
    loss: Loss,
    heldout_loss: Callable[[], float],
    data: int | Batches,
    config: LoopConfig,
    folder: Path,
    ranks: Ranks | None = None,
) -> None:
    """Train ``parameters`` in place; on return they hold the final (or averaged) weights.

    Ctrl-C and SIGTERM stop it between two steps, with a checkpoint.

    Args:
        name: Of the stage, for the progress bar.
        parameters: By name; the names are the checkpoint's.  Some may be spread; then the network computes
            only if all processes do, and ``ranks.sharded`` says so.
        loss: See ``Loss``.
        heldout_loss: Measured without gradient, with the averaged weights in place where there is an average;
            the same in every process.
        data: Batches; or the number of rows, of which row indices (B,) are then drawn.
        folder: Gets metrics.jsonl and checkpoint.safetensors.
        ranks: The processes that train together.

    Raises:
        ConfigError: the folder's checkpoint is of another stage, model or config.
        FloatingPointError: the loss or its gradient is no finite number.
        Interrupted: it was stopped; the same call goes on.
        RankEnded: another process was; the same.
        TrainingFailed: the processes' weights have come apart.
    """
    batches = RowBatches(data, config.batch_size, config.seed) if isinstance(data, int) else data
    about = {"num_rows": data} if isinstance(data, int) else {}
    ranks = ranks or Ranks()
    shards = parameters if isinstance(parameters, LocalShards) else LocalShards(parameters, ranks)
    fitting = _Fitting(name, shards, loss, batches, config, folder, about, ranks)
    fitting.run(heldout_loss)
    if fitting.ema is not None:
        fitting.ema.put()
        shards.written()


class _Fitting:
    """What a stage is between two steps."""

    def __init__(
        self,
        name: str,
        shards: LocalShards,
        loss: Loss,
        batches: Batches,
        config: LoopConfig,
        folder: Path,
        about: Mapping[str, Any],
        ranks: Ranks,
    ) -> None:
        if config.batch_size < ranks.count:
            raise ConfigError(
                f"loop.batch_size is {config.batch_size}, but of {ranks.count} processes each has a part of "
                "the batch: raise it, or start fewer"
            )
        self.name, self.loss, self.batches = name, loss, batches
        self.config, self.ranks = config, ranks
        self.shards = shards
        self.optimizer = _optimizer(self.shards, config)
        served = self.shards.serve(self.optimizer, config.max_grad_norm)
        # The weights start untrained: they must not linger in the average.
        self.ema = EMA(self.shards.own, config.ema_decay, warmup=True) if config.ema_decay else None
        if ranks.main:
            folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = Checkpoint(
            path=folder / "checkpoint.safetensors",
            stage=name,
            settings={"loop": asdict(config), **about},
            shards=self.shards,
            ema=self.ema,
            optimizer=served,
        )
        self.step, record = self.checkpoint.load()
        if len(set(ranks.exchange(self.step))) > 1:
            raise ConfigError(
                f"{folder}: the processes do not see the same checkpoint there: let all write to one disk"
            )
        batches.restore(record.get("batches", {}))
        self.place = batches.state()
        """After the steps done: a step that is cut short has taken its batch already."""
        self.running: float | None = record.get("loss")
        self.norm: float = record.get("norm", 0.0)
        self.saved, self.evaluated = self.step, record.get("evaluated", self.step)
        self.began, self.compared = time.monotonic() - record.get("seconds", 0.0), 0
        self.metrics = MetricsFile(folder / "metrics.jsonl", counter="step")
        if ranks.main:
            self.metrics.forget_after(min(self.step, self.evaluated))

    def run(self, heldout_loss: Callable[[], float]) -> None:
        """All steps that are left."""
        config, ranks = self.config, self.ranks
        before = ranks.held
        with Interruption() as interruption, _progress(disable=not ranks.main) as progress:
            task = progress.add_task(self.name, total=config.steps, completed=self.step, note="")
            ranks.held = interruption.held
            # None may leave while others are within the network: they ask each other.
            all_along = interruption.held() if ranks.sharded else nullcontext()
            try:
                with ranks.computing(), all_along:
                    with interruption.held():
                        self._conclude(heldout_loss, progress)  # where it was stopped before
                    while self.step < config.steps:
                        if ranks.sharded:
                            _stop_together(ranks, interruption)
                        with interruption.held():
                            self._update()
                            progress.update(task, advance=1, note=f"loss {self.running:.4f}")
                            self._conclude(heldout_loss, progress)
            except Interrupted as error:
                with interruption.ignored():  # asked twice, it still finishes this
                    if not self.shards.spread or self.saved < self.step:
                        self._save()
                    ranks.leave("interrupted", error.exit_code)
                raise
            except RankEnded:
                if not self.shards.spread:  # else what has ended has a part of it
                    with interruption.ignored():
                        self._save()
                raise
            finally:
                ranks.held = before

    def _conclude(self, heldout_loss: Callable[[], float], progress: Progress) -> None:
        """What is to do after the step that was done last, unless it is done."""
        config, step = self.config, self.step
        last = step == config.steps
        if self.evaluated < step and (last or step % config.evaluate_every == 0):
            with self._averaged(), torch.no_grad():
                heldout = heldout_loss()
            row = {"step": step, "loss": self.running, "heldout_loss": heldout, "grad_norm": self.norm}
            self.evaluated = step
            if self.ranks.main:
                self.metrics.append(row | {"seconds": round(time.monotonic() - self.began, 1)})
                line = f"{self.name} {step}/{config.steps}: loss {self.running:.4f}, held-out {heldout:.4f}"
                progress.console.print(line)
        # After the last step too: a stage killed before its mark is there must not train twice.
        if self.saved < step and (last or step % config.save_every == 0):
            self._save()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """While open, the model computes with the averaged weights, where there are any."""
        if self.ema is None:
            yield
            return
        with self.ema.applied():
            self.shards.written()
            yield
        self.shards.written()

    def _save(self) -> None:
        self.saved = self.step
        if self.ranks.main or self.shards.spread:
            record = {"loss": self.running, "norm": self.norm, "evaluated": self.evaluated}
            record |= {"seconds": time.monotonic() - self.began, "batches": self.place}
            self.checkpoint.save(self.step, record)

    def _update(self) -> None:
        """One step."""
        config, step, ranks = self.config, self.step, self.ranks
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * config.scale(step) * group["factor"]
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        self.optimizer.zero_grad(set_to_none=True)  # of a step that was cut short
        own = 0.0
        for part in self.loss(self.batches.next(step), generator):
            own += part.item()
            self.shards.backward(part)
        value = sum(ranks.exchange(own))
        if not math.isfinite(value):
            raise FloatingPointError(f"{self.name}: the loss is {value} at step {step}; lower learning_rate")
        norm = self.shards.step()
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"{self.name}: the gradient's norm is {norm} at step {step}; lower learning_rate"
            )
        if self.ema is not None:
            self.ema.update()
        self.step, self.norm, self.place = step + 1, norm, self.batches.state()
        self.running = value if self.running is None else 0.98 * self.running + 0.02 * value
        if self.compared < COMPARED:
            self.compared += 1
            weights: Any = SimpleNamespace(named_trainable=self.shards.whole.items)
            compare(ranks, weights, f"{self.name}: after step {self.step}")


def _stop_together(ranks: Ranks, interruption: Interruption) -> None:
    asked = [number for number in ranks.exchange(interruption.received) if number is not None]
    if asked:
        raise Interrupted(asked[0])


def _optimizer(shards: LocalShards, config: LoopConfig) -> torch.optim.Optimizer:
    check_spread(config, spread=shards.spread)
    values = [*shards.own.values()]
    if config.optimizer == "prodigy":
        # One scale for all parameters: it takes no groups that learn at different rates.
        everything: list[dict[str, Any]] = [{"params": values, "factor": 1.0}]
        decay: Any = config.weight_decay
        with redirect_stdout(io.StringIO()):  # it says on stdout how it decays weights
            return Prodigy(everything, lr=config.learning_rate, weight_decay=decay)
    # A gain, such as the connector's scale of 0.01, must move in proportion to its size, not by Adam's steps.
    gains = shards.gains
    others = [value for value in values if not any(value is gain for gain in gains)]
    groups: list[dict[str, Any]] = [{"params": others, "factor": 1.0}]
    groups += [{"params": [gain], "factor": abs(gain.item()) or 1.0} for gain in gains]
    groups = [group for group in groups if group["params"]]
    rates: Any = {"lr": config.learning_rate, "betas": (0.9, 0.98), "weight_decay": config.weight_decay}
    if config.optimizer == "adamw_8bit":
        return adamw_8bit("loop.optimizer")(groups, **rates)
    return torch.optim.AdamW(groups, **rates, fused=True)


def _progress(*, disable: bool) -> Progress:
    text = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    return Progress(*text, TextColumn("{task.fields[note]}"), TimeRemainingColumn(), disable=disable)
