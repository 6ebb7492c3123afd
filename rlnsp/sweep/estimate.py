"""How long a sweep will take, from a short run of one cell on this machine."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlnsp import config
from rlnsp.settings import ConfigError, RunConfig
from rlnsp.sweep import leash
from rlnsp.sweep.plan import Plan
from rlnsp.sweep.work import work

ITERATIONS = 2
"""The first has the costs of beginning; the last is the measure."""
MOST_SCENES = 32
"""Of the short run's evaluations."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a short run took."""

    iteration_s: float
    cost: int
    """Of that iteration, in forwards."""
    clip_s: float
    """A held-out clip: made, judged, and its share of what an evaluation takes besides."""
    start_s: float
    """Until the first evaluation begins, and whatever else is once a run."""

    def run_s(self, run: RunConfig) -> float:
        """A whole run."""
        evaluation, trainer = run.evaluation, run.trainer
        on_the_way = (trainer.num_iterations - 1) // evaluation.every if evaluation.every else 0
        clips = evaluation.num_scenes * evaluation.num_seeds * (2 + max(0, on_the_way))
        training = trainer.num_iterations * self.iteration_s * work(run).cost / self.cost
        return self.start_s + training + clips * self.clip_s


def calibrate(run: RunConfig, environment: Mapping[str, str]) -> Calibration:
    """Train two iterations, and throw them away.

    Args:
        run: its iterations and evaluations are cut short.
        environment: of a job, which says what cores or GPU it has.

    Raises:
        ConfigError: the run failed; the message has its last line.
    """
    few = min(run.evaluation.num_scenes, MOST_SCENES)
    short = dataclasses.replace(
        run,
        trainer=dataclasses.replace(
            run.trainer, num_iterations=ITERATIONS, save_every=0, report=False, trackers=[]
        ),
        evaluation=dataclasses.replace(run.evaluation, num_scenes=few, every=0),
    )
    with tempfile.TemporaryDirectory() as folder:
        settings, output = Path(folder) / "run.yaml", Path(folder) / "run"
        settings.write_text(config.to_yaml(short), encoding="utf-8")
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", leash.__name__, "train", "--config", settings, "--output", output],
            env={**os.environ, **environment, leash.PARENT: str(os.getpid())},
            capture_output=True,
            text=True,
            check=False,
        )
        whole = time.monotonic() - started
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise ConfigError(f"--dry-run: the short run that measures the time failed: {last}")
        lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        wall_s = json.loads((output / "summary.json").read_text(encoding="utf-8"))["wall_s"]
    taken = [sum(one["seconds"].values()) for one in map(json.loads, lines) if "seconds" in one]
    clips = 2 * few * run.evaluation.num_seeds
    return Calibration(
        iteration_s=taken[-1],
        cost=work(run).cost,
        clip_s=max(0.0, wall_s - sum(taken)) / clips,
        start_s=whole - wall_s,
    )


def described(plan: Plan, jobs: int, measured: Calibration) -> list[str]:
    """The cells with their minutes, and the whole."""
    sweep = plan.sweep
    cells = plan.samples
    seconds = [measured.run_s(plan.run(cell, sweep.seeds[0])) for cell in cells]
    lines = [f"{cell.name}: {one / 60:.1f} min a run" for cell, one in zip(cells, seconds, strict=True)]
    if sweep.budget is None:
        runs, total = len(cells) * len(sweep.seeds), sum(seconds) * len(sweep.seeds)
    else:
        lines = [f"drawn by {sweep.sampler}, for instance", *lines]
        runs = sweep.budget * len(sweep.seeds)
        total = runs * sum(seconds) / len(seconds)
    lines.append(
        f"{runs} runs, {jobs} at once: about {total / 60 / jobs:.0f} minutes. From a run of {ITERATIONS} "
        f"iterations of {cells[0].name!r} on this machine ({measured.iteration_s:.1f} s an iteration, "
        f"{measured.clip_s:.2f} s a held-out clip), the other cells by their model calls, a backward pass as "
        "two forwards. It ran alone: jobs that share memory or a disk are slower."
    )
    return lines
