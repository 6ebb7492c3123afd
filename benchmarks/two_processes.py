"""Two processes do what one does: each algorithm trained both ways, and how far the weights are apart.

python -m benchmarks.two_processes             # prints the table
python -m benchmarks.two_processes --write     # also into docs/scale.md

The same config and so the same global batch, once in one process and once in two that exchange over gloo.
Compared are every trained weight after the last iteration, and AdamW's mean of the gradients, relative to
its largest: AdamW divides a gradient by its own size, so that a weight whose gradient is only rounding may
move by the learning rate either way.  Each run is in processes of its own.
"""

import argparse
import multiprocessing
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.pages import fill
from rlnsp.settings import (
    ConfigError,
    EvaluationConfig,
    RewardSlot,
    RunConfig,
    SamplerConfig,
    Slot,
    TrainerConfig,
    WindowConfig,
)
from rlnsp.trainer import train

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
MARKS = "<!-- two processes -->", "<!-- /two processes -->"
ALGORITHMS = ("ddpo", "grpo", "grpo_guard", "flow_dppo", "nft", "awm")
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
"""What accelerate launch says for configs/accelerate/fsdp2.yaml."""
ZERO2, ZERO3 = (
    {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": stage} for stage in ("2", "3")
)
"""And for deepspeed_zero2.yaml and deepspeed_zero3.yaml."""


UNIFIED = "policies.unified.weights"
"""Brings what the shipped policy is made of."""


def brightness(prompts: Sequence[str], completions: Sequence[Any], **columns: Any) -> list[float]:
    """How bright a clip is."""
    return [float(clip.mean()) / 255 for clip in completions]


def toy(algorithm: str) -> RunConfig:
    """Eight iterations of five scenes, which two processes cannot share evenly; four optimiser steps each."""
    return RunConfig(
        policy=Slot(use="rlnsp.testing:ToyPolicy"),
        rewards={"brightness": RewardSlot(use="benchmarks.two_processes:brightness")},
        algorithm=Slot(use=algorithm),
        sampler=SamplerConfig(num_steps=5),
        trainer=TrainerConfig(
            num_iterations=8,
            scenes_per_iteration=5,
            group_size=6,
            learning_rate=1e-3,
            updates_per_rollout=2,
            minibatches=2,
            save_every=0,
            trackers=[],
            report=False,
        ),
        evaluation=EvaluationConfig(num_scenes=5, bootstrap=20, keep_clips=0),
    )


def world(algorithm: str, micro_batch_size: int = 1, scenes: int = 3) -> RunConfig:
    """Three iterations of the shipped policy with its LoRA; every model call is of one sample."""
    config = toy(algorithm)
    short = {"num_iterations": 3, "scenes_per_iteration": scenes, "group_size": 2, "minibatches": 1}
    return replace(
        config,
        policy=Slot(use="unified"),
        sampler=SamplerConfig(num_steps=4, window=WindowConfig(size=1)),
        trainer=replace(config.trainer, **short, learning_rate=3e-4, micro_batch_size=micro_batch_size),
        evaluation=EvaluationConfig(num_scenes=2, bootstrap=20, keep_clips=0),
    )


def launch(
    function: Callable[..., int],
    arguments: Sequence[Any],
    log: Path,
    count: int,
    said: Mapping[str, str] | None = None,
    preload: Sequence[str] = (),
) -> list[BaseProcess]:
    """Start ``function(*arguments)`` in ``count`` processes that find each other, as a launcher does.

    Args:
        function: of a module that can be imported; what it returns is the exit code.
        arguments: that can be sent to a process.
        log: process r says what it has to say in ``log.r``.
        count: of processes.
        said: what else the launcher says in the environment.
        preload: further modules that are slow to import; the first call decides.
    """
    context = multiprocessing.get_context("forkserver")  # which has imported what is slow to import once
    context.set_forkserver_preload(["rlnsp.trainer", "rlnsp.testing", "torch._dynamo", *preload])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(count):
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
        told = {"MASTER_ADDR": "127.0.0.1", **{name: str(n) for name, n in numbers.items()}, **(said or {})}
        process = context.Process(target=_work, args=(told, f"{log}.{rank}", function, arguments))
        process.start()
        started.append(process)
    return started


def _work(told: dict[str, str], log: str, function: Callable[..., int], arguments: Sequence[Any]) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(file, number)
    os.environ.update(told)
    torch.set_num_threads(1)
    try:
        sys.exit(function(*arguments))
    except ConfigError as error:
        print(f"rlnsp: error: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


@dataclass(frozen=True, kw_only=True)
class End:
    """What a run came to."""

    weights: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    """AdamW's exponential mean of them."""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs in a folder, each made once."""

    folder: Path
    made: dict[str, End] = field(default_factory=dict)

    def end(self, config: RunConfig, count: int, said: Mapping[str, str] | None = None) -> End:
        """What ``count`` processes come to by ``config``.

        Raises:
            RuntimeError: they did not end well.
        """
        name, key = str(len(self.made)), f"{config} {count} {said}"
        if key not in self.made:
            processes = launch(
                train, (config, self.folder / name), self.folder / f"{name}.log", count, said, [UNIFIED]
            )
            for process in processes:
                process.join()
            if any(process.exitcode for process in processes):
                logs = [path.read_text() for path in sorted(self.folder.glob(f"{name}.log.*"))]
                raise RuntimeError("\n".join(logs))
            last = self.folder / name / "checkpoints" / f"step-{config.trainer.num_iterations}"
            state = load_file(last / "optimizer.safetensors")
            gradients = {key: value for key, value in state.items() if key.endswith(".exp_avg")}
            self.made[key] = End(weights=load_file(last / "trained.safetensors"), gradients=gradients)
        return self.made[key]


def difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest of any number."""
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def largest(tensors: Mapping[str, Tensor]) -> float:
    """Of any number's absolute value."""
    return max(float(value.abs().max()) for value in tensors.values())


def row(runs: Runs, one: End, other: End, like: RunConfig) -> str:
    """How far two ends are apart, and how far either is from the start."""
    first = replace(like, algorithm=Slot(use="grpo"), trainer=replace(like.trainer, num_iterations=0))
    gradients = difference(one.gradients, other.gradients) / largest(one.gradients)
    moved = difference(one.weights, runs.end(first, 1).weights)
    return f"{difference(one.weights, other.weights):.1e} | {moved:.1e} | {gradients:.1e}"


def table(runs: Runs) -> str:
    """In Markdown."""
    lines = [
        "| compared | policy | weights differ by | weights moved by | gradients differ by, relatively |",
        "|---|---|---|---|---|",
    ]

    def add(what: str, policy: str, one: End, other: End, like: RunConfig) -> None:
        lines.append(f"| {what} | {policy} | {row(runs, one, other, like)} |")
        print(lines[-1], flush=True)

    for policy, config in (("toy", toy), ("shipped", world)):
        for name in ALGORITHMS:
            like = config(name)
            add(f"{name}: two processes, one", policy, runs.end(like, 2), runs.end(like, 1), like)
    like = world("grpo", scenes=4)
    for name, told in (("FSDP2", FSDP2), ("ZeRO-2", ZERO2), ("ZeRO-3", ZERO3)):
        add(
            f"grpo: two with {name}, two without", "shipped", runs.end(like, 2, told), runs.end(like, 2), like
        )
    like = world("grpo")
    sharing = replace(like, trainer=replace(like.trainer, context_parallel=2))
    add("grpo: two that share tokens, one", "shipped", runs.end(sharing, 2), runs.end(like, 1), like)
    coarse = runs.end(world("grpo", micro_batch_size=2), 1)
    add("grpo: one, one with micro-batches of 2", "shipped", runs.end(like, 1), coarse, like)
    return "\n".join(lines)


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.two_processes", description="2 = 1, measured."
    )
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}, too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = table(Runs(folder=Path(folder)))
    print(f"\n{found}")
    if args.write:
        fill(PAGE, found, MARKS)


if __name__ == "__main__":
    main()
