"""What an iteration costs over its bare model calls, and what prefix sharing saves.

``python -m benchmarks.speed --policy world --shape shipped``.

All within one run on one machine, each figure a ratio of medians that were taken in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.shapes import SHAPES, Setting, setting
from rlnsp import plugins
from rlnsp.config import plugin_settings
from rlnsp.optimisation import Optimisation, make_optimizer
from rlnsp.protocols import Policy
from rlnsp.randomness import Randomness
from rlnsp.rollout import rollout
from rlnsp.rundir import environment
from rlnsp.types import Condition, Scene, Scores, Trajectory, Video

ROOT = Path(__file__).parents[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table and write it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--policy", default="world", choices=sorted({policy for policy, _ in SHAPES}))
    parser.add_argument("--shape", default="shipped", choices=sorted({shape for _, shape in SHAPES}))
    parser.add_argument("--rounds", type=int, default=5, help="times that each is measured (5)")
    parser.add_argument("--output", type=Path, help="docs/benchmarks/speed-POLICY-SHAPE.json")
    args = parser.parse_args(argv)
    torch.set_flush_denormal(True)
    found = measure(setting(args.policy, args.shape), args.rounds)
    Console().print(as_table(f"{args.policy}, {args.shape}", found))
    output = args.output or ROOT / "docs" / "benchmarks" / f"speed-{args.policy}-{args.shape}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    here = {key: value for key, value in environment().items() if key != "command"}
    output.write_text(json.dumps({**found, "environment": here}, indent=2) + "\n")
    return 0


def measure(case: Setting, rounds: int) -> dict[str, Any]:
    """Every figure of one setting.

    Returns:
        seconds of an iteration, of its bare model calls and their ratio; seconds and calls of a rollout with
        and without prefix sharing, a call being one sample's forward; peak memory in bytes, on CUDA.
    """
    recorder = Recorder(case.policy)
    iterate = Iteration(case, recorder)
    iterate()
    calls = list(recorder.calls)
    bare = Bare(case, calls)
    bare()
    iteration, model = alternate([iterate, bare], rounds)
    shared, apart = (Rollout(case, recorder, share) for share in (True, False))
    counts = [one.count() for one in (shared, apart)]
    seconds = alternate([shared, apart], rounds)
    return {
        "samples": len(case.scenes) * case.group_size,
        "iteration_s": iteration,
        "bare_s": model,
        "over_bare": iteration / model,
        "rollout_s": {"shared": seconds[0], "apart": seconds[1]},
        "rollout_forwards": {"shared": counts[0], "apart": counts[1]},
        "peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    }


def alternate(functions: Sequence[Callable[[], None]], rounds: int) -> list[float]:
    """The median seconds of each; they take turns, so that a slow spell of the machine meets all."""
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, own in zip(functions, seconds, strict=True):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in seconds]


@dataclass(frozen=True)
class Call:
    """One call of the model."""

    kind: str
    """velocity, encode or decode."""
    size: int
    """Samples, or scenes for encode."""
    guidance: float = 1.0
    backward: bool = False


class Recorder:
    """A policy that writes down how it is called."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.calls: list[Call] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def encode(self, scenes: Sequence[Scene]) -> Condition:
        """The policy's."""
        self.calls.append(Call("encode", len(scenes)))
        return self.policy.encode(scenes)

    def velocity(
        self, x: torch.Tensor, sigma: torch.Tensor, condition: Condition, guidance_scale: float = 1.0
    ):
        """The policy's."""
        self.calls.append(Call("velocity", len(x), guidance_scale, torch.is_grad_enabled()))
        return self.policy.velocity(x, sigma, condition, guidance_scale)

    def decode(self, x: torch.Tensor, generator: torch.Generator) -> Video:
        """The policy's."""
        self.calls.append(Call("decode", len(x)))
        return self.policy.decode(x, generator)


class Iteration:
    """All of an iteration but the reward, whose scores are drawn; every sample is trained on."""

    def __init__(self, case: Setting, recorder: Recorder) -> None:
        self.case, self.recorder = case, recorder
        slot = case.algorithm
        algorithm: Any = plugins.find("algorithms", slot.use)
        self.algorithm = algorithm(plugin_settings("algorithms", slot, "algorithm"), case.sampler)
        policy: Any = recorder
        self.optimise = Optimisation(
            policy=policy,
            algorithm=self.algorithm,
            optimizer=make_optimizer(policy, case.trainer),
            config=case.trainer,
        )
        self.iteration = 0

    def __call__(self) -> None:
        """One iteration."""
        self.recorder.calls.clear()
        trajectory = made(self.case, self.recorder, self.iteration)
        self.iteration += 1
        raw = torch.rand(len(trajectory.samples), generator=torch.Generator().manual_seed(self.iteration))
        batch, _ = self.algorithm.credit(trajectory, Scores(raw={"drawn": raw}, weights={"drawn": 1.0}))
        self.optimise(batch, self.case.scenes)


def made(case: Setting, recorder: Recorder, iteration: int, share_prefix: bool = True) -> Trajectory:
    """A rollout of the setting."""
    policy: Any = recorder
    return rollout(
        policy,
        case.scenes,
        case.sampler,
        case.group_size,
        Randomness(seed=0, iteration=iteration),
        chunk_size=case.trainer.micro_batch_size,
        share_prefix=share_prefix,
    )


class Rollout:
    """A rollout alone."""

    def __init__(self, case: Setting, recorder: Recorder, share_prefix: bool) -> None:
        self.case, self.recorder, self.share_prefix = case, recorder, share_prefix

    def __call__(self) -> None:
        """One rollout."""
        self.recorder.calls.clear()
        made(self.case, self.recorder, 0, self.share_prefix)

    def count(self) -> int:
        """Samples' forwards of the DiT."""
        self()
        return sum(call.size for call in self.recorder.calls if call.kind == "velocity")


class Bare:
    """The model calls of an iteration and nothing else, on inputs that are there already."""

    def __init__(self, case: Setting, calls: Sequence[Call]) -> None:
        self.policy, self.calls = case.policy, calls
        generator = torch.Generator().manual_seed(0)
        largest = max(call.size for call in calls)
        with torch.no_grad():
            condition = case.policy.encode(case.scenes)
            self.x = case.policy.noise(largest, generator).to(condition.embeds.device)
            self.sigma = torch.full((largest,), 0.5, device=self.x.device)
            rows = torch.arange(largest) % len(case.scenes)
            self.condition = condition.take(rows.to(self.x.device))
        self.scenes = case.scenes
        self.rows = {call.size: self._rows(call.size) for call in calls}
        self.parameters = [value for _, value in case.policy.named_trainable()]

    def _rows(self, size: int) -> Condition:
        whole = self.condition
        return replace(whole, embeds=whole.embeds[:size], mask=whole.mask[:size])

    def __call__(self) -> None:
        """All calls, in their order."""
        for value in self.parameters:
            value.grad = None
        for call in self.calls:
            x, sigma = self.x[: call.size], self.sigma[: call.size]
            match call.kind:
                case "encode":
                    with torch.no_grad():
                        self.policy.encode(self.scenes[: call.size])
                case "decode":
                    self.policy.decode(x, torch.Generator())
                case _:
                    with torch.set_grad_enabled(call.backward):
                        v = self.policy.velocity(x, sigma, self.rows[call.size], call.guidance)
                    if call.backward:
                        v.square().mean().backward()


def as_table(title: str, found: dict[str, Any]) -> Table:
    """For people."""
    table = Table(title=title, title_justify="left")
    for column in ("what", "ours", "bare, or without", "ratio"):
        table.add_column(column, justify="left" if column == "what" else "right")
    table.add_row(
        "an iteration over its model calls",
        f"{found['iteration_s']:.3f} s",
        f"{found['bare_s']:.3f} s",
        f"{found['over_bare']:.3f}",
    )
    seconds, forwards = found["rollout_s"], found["rollout_forwards"]
    table.add_row(
        "a rollout with prefix sharing",
        f"{seconds['shared']:.3f} s",
        f"{seconds['apart']:.3f} s",
        f"{seconds['shared'] / seconds['apart']:.3f}",
    )
    table.add_row(
        "its forwards of a sample",
        str(forwards["shared"]),
        str(forwards["apart"]),
        f"{forwards['shared'] / forwards['apart']:.3f}",
    )
    if found["peak_bytes"]:
        table.add_row("peak memory", f"{found['peak_bytes'] / 1e9:.2f} GB", "", "")
    return table


if __name__ == "__main__":
    raise SystemExit(main())
