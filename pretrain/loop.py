"""The loop that every stage of pre-training shares: steps, progress, held-out loss, checkpoints, resuming.

A stage is stopped and started again at will: batches are a function of (seed, step), or the checkpoint says
how far their source is, so a resumed stage goes on with exactly the batches that the straight one would see.
"""

import io
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from prodigyopt import Prodigy
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import Parameter

from pretrain.checkpoint import Checkpoint
from rlnsp.eight_bit import adamw_8bit
from rlnsp.ema import EMA
from rlnsp.interruption import Interrupted, Interruption
from rlnsp.metrics import MetricsFile
from rlnsp.settings import ConfigError

Loss = Callable[[Any, torch.Generator], Tensor]

HELD_OUT_ROWS = 256
"""Clips that a held-out loss is taken over, at most."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long and how a stage trains."""

    steps: int = 1000
    batch_size: int = 64
    """Clips a step."""
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


def fit(
    name: str,
    parameters: dict[str, Parameter],
    loss: Loss,
    heldout_loss: Callable[[], float],
    data: int | Batches,
    config: LoopConfig,
    folder: Path,
) -> None:
    """Train ``parameters`` in place; on return they hold the final (or averaged) weights.

    Ctrl-C and SIGTERM stop it between two steps, with a checkpoint.

    Args:
        name: Of the stage, for the progress bar.
        parameters: By name; the names are the checkpoint's.
        loss: (batch, generator) -> scalar loss.
        heldout_loss: Measured without gradient, with the averaged weights in place where there is an average.
        data: Batches; or the number of rows, of which row indices (B,) are then drawn.
        folder: Gets metrics.jsonl and checkpoint.safetensors.

    Raises:
        ConfigError: the folder's checkpoint is of another stage, model or config.
        FloatingPointError: the loss or its gradient is no finite number.
        Interrupted: it was stopped; the same call goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = list(parameters.values())
    batches = RowBatches(data, config.batch_size, config.seed) if isinstance(data, int) else data
    about = {"num_rows": data} if isinstance(data, int) else {}
    optimizer = _optimizer(values, config)
    # The weights start untrained: they must not linger in the average.
    ema = EMA(parameters, config.ema_decay, warmup=True) if config.ema_decay else None
    checkpoint = Checkpoint(
        path=folder / "checkpoint.safetensors",
        stage=name,
        settings={"loop": asdict(config), **about},
        parameters=parameters,
        ema=ema,
        optimizer=optimizer,
    )
    step, record = checkpoint.load()
    batches.restore(record.get("batches", {}))
    running, began = record.get("loss"), time.monotonic() - record.get("seconds", 0.0)
    metrics = MetricsFile(folder / "metrics.jsonl", counter="step")
    metrics.forget_after(step)

    def save() -> None:
        record = {"loss": running, "seconds": time.monotonic() - began, "batches": batches.state()}
        checkpoint.save(step, record)

    with Interruption() as interruption, _progress() as progress:
        task = progress.add_task(name, total=config.steps, completed=step, note="")
        try:
            while step < config.steps:
                with interruption.held():
                    value, norm = _update(name, step, values, optimizer, loss, batches, config)
                    if ema is not None:
                        ema.update()
                    step += 1
                    running = value if running is None else 0.98 * running + 0.02 * value
                    progress.update(task, advance=1, note=f"loss {running:.4f}")
                    last = step == config.steps
                    if last or step % config.evaluate_every == 0:
                        with ema.applied() if ema else nullcontext(), torch.no_grad():
                            heldout = heldout_loss()
                        row = {"step": step, "loss": running, "heldout_loss": heldout, "grad_norm": norm}
                        metrics.append(row | {"seconds": round(time.monotonic() - began, 1)})
                        line = f"{name} {step}/{config.steps}: loss {running:.4f}, held-out {heldout:.4f}"
                        progress.console.print(line)
                    # After the last step too: a stage killed before its mark is there must not train twice.
                    if last or step % config.save_every == 0:
                        save()
        except Interrupted:
            with interruption.held():  # asked twice, it still finishes this
                save()
            raise
    if ema is not None:
        ema.put()


def _update(
    name: str,
    step: int,
    values: list[Parameter],
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    batches: Batches,
    config: LoopConfig,
) -> tuple[float, float]:
    """Step ``step``; its loss and the gradient's norm before clipping."""
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * config.scale(step) * group["factor"]
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    value = loss(batches.next(step), generator)
    if not torch.isfinite(value):
        raise FloatingPointError(f"{name}: the loss is {value.item()} at step {step}; lower learning_rate")
    value.backward()
    norm = torch.nn.utils.clip_grad_norm_(values, config.max_grad_norm)
    if not torch.isfinite(norm):
        raise FloatingPointError(
            f"{name}: the gradient's norm is {norm.item()} at step {step}; lower learning_rate"
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value.item(), norm.item()


def _optimizer(values: list[Parameter], config: LoopConfig) -> torch.optim.Optimizer:
    if config.optimizer == "prodigy":
        # One scale for all parameters: it takes no groups that learn at different rates.
        everything: list[dict[str, Any]] = [{"params": values, "factor": 1.0}]
        decay: Any = config.weight_decay
        with redirect_stdout(io.StringIO()):  # it says on stdout how it decays weights
            return Prodigy(everything, lr=config.learning_rate, weight_decay=decay)
    # A gain, such as the connector's scale of 0.01, must move in proportion to its size, not by Adam's steps.
    groups: list[dict[str, Any]] = [{"params": [v for v in values if v.numel() > 1], "factor": 1.0}]
    groups += [{"params": [v], "factor": abs(v.item()) or 1.0} for v in values if v.numel() == 1]
    groups = [group for group in groups if group["params"]]
    rates: Any = {"lr": config.learning_rate, "betas": (0.9, 0.98), "weight_decay": config.weight_decay}
    if config.optimizer == "adamw_8bit":
        return adamw_8bit("loop.optimizer")(groups, **rates)
    return torch.optim.AdamW(groups, **rates, fused=True)


def _progress() -> Progress:
    text = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    return Progress(*text, TextColumn("{task.fields[note]}"), TimeRemainingColumn())
