"""Two processes do what one does: each algorithm trained both ways, and how far the weights are apart.

    python -m benchmarks.two_processes --output docs/two_processes.json

The same config, the same global batch: once in this machine's one process, once in two that exchange over
gloo.  Compared are the trained weights after all iterations, and the scores and losses of each.
"""

import json
import multiprocessing
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from rlnsp.settings import (
    ConfigError,
    EvaluationConfig,
    RewardSlot,
    RunConfig,
    SamplerConfig,
    Slot,
    TrainerConfig,
)
from rlnsp.trainer import train

ALGORITHMS = ("ddpo", "grpo", "grpo_guard", "flow_dppo", "nft", "awm")
ITERATIONS = 8
NOTHING: dict[str, str] = {}
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
"""What accelerate launch says for configs/accelerate/fsdp2.yaml."""


def brightness(prompts: Sequence[str], completions: Sequence[Any], **columns: Any) -> list[float]:
    """How bright a clip is."""
    return [float(clip.mean()) / 255 for clip in completions]


def run_config(algorithm: str, **trainer: Any) -> RunConfig:
    """Five scenes of six samples, which two processes cannot share evenly."""
    settings = {
        "num_iterations": ITERATIONS,
        "scenes_per_iteration": 5,
        "group_size": 6,
        "learning_rate": 1e-3,
        "ema_decay": 0.9,
        "updates_per_rollout": 2,
        "minibatches": 2,
        "save_every": 0,
        "trackers": [],
        "report": False,
    }
    return RunConfig(
        policy=Slot(use="rlnsp.testing:ToyPolicy"),
        rewards={"brightness": RewardSlot(use="benchmarks.two_processes:brightness")},
        algorithm=Slot(use=algorithm),
        sampler=SamplerConfig(num_steps=5),
        trainer=TrainerConfig(**{**settings, **trainer}),
        evaluation=EvaluationConfig(num_scenes=5, bootstrap=20, keep_clips=3),
    )


def launch(
    function: Callable[..., int], arguments: Sequence[Any], log: Path, count: int, said: Mapping[str, str] = NOTHING
) -> list[BaseProcess]:
    """Start ``function(*arguments)`` in ``count`` processes that find each other, as a launcher does.

    Args:
        function: of a module that can be imported; what it returns is the exit code.
        arguments: that can be sent to a process.
        log: process r says what it has to say in ``log.r``.
        count: of processes.
        said: what else a launcher says in the environment.
    """
    context = multiprocessing.get_context("forkserver")  # which has imported what is slow to import once
    context.set_forkserver_preload(["rlnsp.trainer", "rlnsp.testing", "torch._dynamo"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(count):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
        where = {"MASTER_ADDR": "127.0.0.1", **said, **{name: str(value) for name, value in place.items()}}
        process = context.Process(target=_work, args=(where, f"{log}.{rank}", function, arguments))
        process.start()
        started.append(process)
    return started


def _work(where: dict[str, str], log: str, function: Callable[..., int], arguments: Sequence[Any]) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(file, number)
    os.environ.update(where)
    torch.set_num_threads(1)
    try:
        sys.exit(function(*arguments))
    except ConfigError as error:
        print(f"rlnsp: error: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def trained(config: RunConfig, run: Path, count: int) -> dict[str, torch.Tensor]:
    """The weights that ``config`` comes to in ``count`` processes."""
    processes = launch(train, (config, run), run.with_suffix(".log"), count)
    for process in processes:
        process.join()
    codes = [process.exitcode for process in processes]
    if any(codes):
        raise RuntimeError(f"exit codes {codes}; see {run.with_suffix('.log')}.*")
    return load_file(run / "checkpoints" / f"step-{config.trainer.num_iterations}" / "trained.safetensors")


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest of any weight."""
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def compare(algorithm: str, folder: Path) -> dict[str, Any]:
    """One process against two."""
    config = run_config(algorithm)
    alone = trained(config, folder / f"{algorithm}-1", 1)
    shared = trained(config, folder / f"{algorithm}-2", 2)
    still = trained(
        replace(config, trainer=replace(config.trainer, num_iterations=0)), folder / f"{algorithm}-0", 1
    )
    return {
        "algorithm": algorithm,
        "difference": difference(alone, shared),
        "moved": difference(alone, still),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        for name in ALGORITHMS:
            print(json.dumps(compare(name, Path(made))), flush=True)
