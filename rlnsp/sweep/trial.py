"""One trial: an ordinary run folder, made by ``rlnsp train`` in a process of its own."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlnsp import checkpoint, config, evaluations
from rlnsp.atomic import written_whole
from rlnsp.evaluate import DISTANCE
from rlnsp.settings import ConfigError, RunConfig
from rlnsp.sweep import leash

POLL_S = 0.2
KILL_AFTER_S = 600
"""A run that was told to stop finishes what it must not leave half done, and saves."""
TAIL = 12
"""Lines of a log that say why a run failed."""
DIGITS = 6
"""Of a scene's score, as results keep it."""


class TrialFailed(RuntimeError):
    """A run ended with an error; the message has the end of its log."""


class TrialStopped(Exception):
    """A run was told to stop, and saved."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run came to."""

    scenes: str
    """A digest of the held-out scenes' ids: what may be paired."""
    before: dict[str, list[float | None]]
    """By measure, a score a scene, of the policy before training; null where it could not be measured."""
    after: dict[str, list[float | None]]
    means: dict[str, float | None]
    """Of every other measure, after."""
    iterations: int
    wall_s: float

    def mean(self, measure: str) -> float:
        """The mean over scenes after training; NaN where none was measured."""
        return mean(self.after[measure])

    def to_json(self) -> dict[str, Any]:
        """``Result(**...)`` reads it back."""
        return asdict(self)


def mean(scores: list[float | None]) -> float:
    """Of those that are known; NaN where none is."""
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if known else float("nan")


def train(
    run: RunConfig,
    folder: Path,
    metric: str,
    environment: Mapping[str, str],
    stop: Callable[[], bool],
    evaluated: Callable[[int, float], bool],
) -> Result:
    """Make the run, go on with what there is of it, or take it as it is where it is done.

    Args:
        run: its config.
        folder: the run folder.
        metric: the measure whose scores are kept scene by scene, beside the distance.
        environment: of the process, beside this one's own.
        stop: asked again and again; true: the run is told to stop.
        evaluated: told of each evaluation on the way, its iteration and mean; true: give the run up.

    Raises:
        TrialFailed: the run failed.
        TrialStopped: it was told to stop.
        ConfigError: the folder holds a run with other settings.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f"{folder.name}.lock"), stop) as lock:
        if not _is_done(folder, run):
            log = folder.with_name(f"{folder.name}.log")
            command = _command(run, folder)
            with log.open("a", encoding="utf-8") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "rlnsp.sweep.leash", *command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment, leash.PARENT: str(os.getpid())},
                    start_new_session=True,  # a terminal's Ctrl-C is for the sweep, which tells its runs
                    pass_fds=[lock],
                )
                _watch(process, folder, metric, stop, evaluated)
            if process.returncode:
                tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-TAIL:]
                raise TrialFailed(f"{folder}: ended with {process.returncode}: {' / '.join(tail)}")
        return read(folder, metric)


def read(folder: Path, metric: str) -> Result:
    """What a run that is done came to."""
    kept = {one.when: one for one in evaluations.read(folder)}
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    before, after = kept["before"].evaluation, kept["after"].evaluation
    measures = [metric, *([DISTANCE] if metric != DISTANCE else [])]
    others = {name: one["after"] for name, one in summary["heldout_all"].items() if name not in measures}
    return Result(
        scenes=hashlib.sha256("\0".join(after.scene_ids).encode()).hexdigest()[:16],
        before={name: _rounded(before.scores[name]) for name in measures},
        after={name: _rounded(after.scores[name]) for name in measures},
        means=others,
        iterations=summary["steps"],
        wall_s=summary["wall_s"],
    )


def _rounded(scores: list[float]) -> list[float | None]:
    return [None if score != score else round(score, DIGITS) for score in scores]


def _is_done(folder: Path, run: RunConfig) -> bool:
    path = folder / "config.yaml"
    if path.is_file() and config.load(path) != run:
        raise ConfigError(
            f"{folder}: holds a run with other settings than this trial; move it away, or give the sweep "
            "another folder by --output"
        )
    summary = folder / "summary.json"
    return summary.is_file() and json.loads(summary.read_text(encoding="utf-8"))["status"] == "done"


def _command(run: RunConfig, folder: Path) -> list[str]:
    """New, or gone on with."""
    if folder.is_dir():
        if any(checkpoint.fault(one) is None for one in checkpoint.checkpoints(folder / "checkpoints")):
            return ["train", "--resume", str(folder)]
        shutil.rmtree(folder)  # stopped before its first checkpoint
    settings = folder.with_name(f"{folder.name}.yaml")
    with written_whole(settings) as aside:
        aside.write_text(config.to_yaml(run), encoding="utf-8")
    return ["train", "--config", str(settings), "--output", str(folder)]


def _watch(
    process: subprocess.Popen[bytes],
    folder: Path,
    metric: str,
    stop: Callable[[], bool],
    evaluated: Callable[[int, float], bool],
) -> None:
    """Wait for the end."""
    told: set[str] = set()
    while process.poll() is None:
        time.sleep(POLL_S)
        for path in sorted((folder / evaluations.FOLDER).glob("step-*.json"), key=_iteration):
            if path.name in told:
                continue
            told.add(path.name)
            scores = json.loads(path.read_text(encoding="utf-8"))["evaluation"]["scores"][metric]
            if evaluated(_iteration(path), mean(scores)):
                _end(process)
                return
        if stop():
            _end(process)
            raise TrialStopped


def _iteration(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(KILL_AFTER_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _locked(path: Path, stop: Callable[[], bool]) -> Iterator[int]:
    """The file, locked; another process that trains this run is waited for.

    The lock goes with the file, which the run's own process has open too: it is free when both have ended.
    """
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stop():
                    raise TrialStopped from None
                time.sleep(POLL_S)
        yield file.fileno()
