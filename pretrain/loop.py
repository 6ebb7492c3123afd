"""The loop that every stage of pre-training shares: steps, progress, held-out loss, checkpoints, resuming.

A stage is stopped and started again at will: batches are a function of (seed, step), so a resumed stage goes on
with exactly the batches that the straight one would have seen.
"""

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from prodigyopt import Prodigy
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter

from rlnsp.settings import ConfigError

Loss = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long and how a stage trains."""

    steps: int = 1000
    batch_size: int = 64
    """Clips a step."""
    optimizer: Literal["adamw", "prodigy"] = "adamw"
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

    def scale(self, step: int) -> float:
        """The factor on the learning rate at ``step``."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        along = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(along, 1.0)))


def batch_indices(n: int, batch_size: int, seed: int, step: int) -> Tensor:
    """Rows of batch ``step`` when ``n`` rows are shuffled anew each epoch; (batch_size,) long."""
    first = step * batch_size
    rows = []
    for epoch in range(first // n, (first + batch_size - 1) // n + 1):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        start, stop = max(first - epoch * n, 0), min(first + batch_size - epoch * n, n)
        rows.append(order[start:stop])
    return torch.cat(rows)


def fit(
    name: str,
    parameters: dict[str, Parameter],
    loss: Loss,
    heldout_loss: Callable[[], float],
    num_rows: int,
    config: LoopConfig,
    folder: Path,
) -> None:
    """Train ``parameters`` in place; on return they hold the final (or averaged) weights.

    Args:
        name: Of the stage, for the progress bar.
        parameters: By name; the names are the checkpoint's.
        loss: (row indices (B,), generator) -> scalar loss.
        heldout_loss: Measured without gradient, with the averaged weights in place where there is an average.
        num_rows: Of the training data.
        folder: Gets metrics.jsonl, and a checkpoint while the stage is not done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = list(parameters.values())
    optimizer = _optimizer(values, config)
    average = [value.detach().clone() for value in values] if config.ema_decay else None
    start = _resume(folder, name, parameters, average, optimizer)
    began = time.monotonic()
    with _progress() as progress, (folder / "metrics.jsonl").open("a", encoding="utf-8") as log:
        task = progress.add_task(name, total=config.steps, completed=start, note="")
        running = None
        for step in range(start, config.steps):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * config.scale(step)
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            value = loss(batch_indices(num_rows, config.batch_size, config.seed, step), generator)
            if not torch.isfinite(value):
                raise FloatingPointError(
                    f"{name}: the loss is {value.item()} at step {step}; lower learning_rate"
                )
            value.backward()
            norm = torch.nn.utils.clip_grad_norm_(values, config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if average is not None:
                # A warm-up, as in Karras et al. (arXiv:2312.02696): early weights must not linger in the average.
                decay = min(config.ema_decay, (step + 1) / (step + 10))
                torch._foreach_lerp_(average, [v.detach() for v in values], 1 - decay)
            running = value.item() if running is None else 0.98 * running + 0.02 * value.item()
            last = step + 1 == config.steps
            progress.update(task, advance=1, note=f"loss {running:.4f}")
            if last or (step + 1) % config.evaluate_every == 0:
                heldout = _with_average(values, average, heldout_loss)
                seconds = time.monotonic() - began
                row = {"step": step + 1, "loss": running, "heldout_loss": heldout, "grad_norm": norm.item()}
                log.write(json.dumps(row | {"seconds": round(seconds, 1)}) + "\n")
                log.flush()
                progress.console.print(
                    f"{name} {step + 1}/{config.steps}: loss {running:.4f}, held-out {heldout:.4f}"
                )
            if not last and (step + 1) % config.save_every == 0:
                _save(folder, name, step + 1, parameters, average, optimizer)
    if average is not None:
        _swap(values, average)


def _optimizer(values: list[Parameter], config: LoopConfig) -> torch.optim.Optimizer:
    if config.optimizer == "prodigy":
        return Prodigy(values, lr=config.learning_rate, weight_decay=config.weight_decay)
    return torch.optim.AdamW(
        values, config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True
    )


def _progress() -> Progress:
    text = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    return Progress(*text, TextColumn("{task.fields[note]}"), TimeRemainingColumn())


@torch.no_grad()
def _swap(values: list[Parameter], others: list[Tensor]) -> None:
    for value, other in zip(values, others, strict=True):
        mine = value.detach().clone()
        value.copy_(other)
        other.copy_(mine)


def _with_average(
    values: list[Parameter], average: list[Tensor] | None, measure: Callable[[], float]
) -> float:
    with torch.no_grad():
        if average is None:
            return measure()
        _swap(values, average)
        try:
            return measure()
        finally:
            _swap(values, average)


def _tensors(optimizer: torch.optim.Optimizer) -> Iterable[tuple[str, Tensor]]:
    for row, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            yield f"optimizer.{row}.{key}", torch.as_tensor(value)


def _save(
    folder: Path,
    name: str,
    step: int,
    parameters: dict[str, Parameter],
    average: list[Tensor] | None,
    optimizer: torch.optim.Optimizer,
) -> None:
    tensors = {f"parameter.{key}": value.detach() for key, value in parameters.items()}
    if average is not None:
        tensors |= {f"average.{key}": value for key, value in zip(parameters, average, strict=True)}
    tensors |= dict(_tensors(optimizer))
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    note = {"stage": name, "step": str(step), "groups": json.dumps(groups)}
    aside = folder / "checkpoint.part"
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, aside, metadata=note)
    aside.replace(folder / "checkpoint.safetensors")


def _resume(
    folder: Path,
    name: str,
    parameters: dict[str, Parameter],
    average: list[Tensor] | None,
    optimizer: torch.optim.Optimizer,
) -> int:
    path = folder / "checkpoint.safetensors"
    if not path.is_file():
        return 0
    tensors = load_file(path)
    note = _metadata(path)
    expected = {f"parameter.{key}" for key in parameters}
    if not expected <= set(tensors) or note["stage"] != name:
        raise ConfigError(
            f"{path}: of another stage or model ({note['stage']}); remove it to start {name} anew"
        )
    with torch.no_grad():
        for row, (key, value) in enumerate(parameters.items()):
            value.copy_(tensors[f"parameter.{key}"])
            if average is not None:
                average[row].copy_(tensors[f"average.{key}"])
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, row, field = key.split(".", 2)
            state.setdefault(int(row), {})[field] = value
    full = optimizer.state_dict()
    for group, saved in zip(full["param_groups"], json.loads(note["groups"]), strict=True):
        group |= saved
    optimizer.load_state_dict({"state": state, "param_groups": full["param_groups"]})
    return int(note["step"])


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.metadata()
