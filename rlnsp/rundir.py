"""The folder that a run leaves: what was asked, where it ran, what happened, what came out."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rlnsp import evaluations
from rlnsp.atomic import writing, written_whole
from rlnsp.config import to_yaml
from rlnsp.lock import LOCK, locked
from rlnsp.metrics import MetricsFile
from rlnsp.settings import ConfigError, RunConfig

PACKAGES = ("rlnsp", "torch", "transformers", "diffusers", "peft", "accelerate", "numpy", "av", "safetensors")


class RunFolder:
    """Writes a run's files, each whole or not at all; ``metrics.jsonl`` grows by whole lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.metrics = MetricsFile(path / "metrics.jsonl", counter="iteration")

    def check_unused(self) -> None:
        """Raise ConfigError if something is there already, or nothing could be written."""
        if (self.path / "config.yaml").is_file():
            raise ConfigError(
                f"--output {self.path}: has a run already, {self._state()}; go on with it by: "
                f"rlnsp train --resume {self.path}. Or choose another folder"
            )
        if self.path.is_file() or (self.path.is_dir() and {one.name for one in self.path.iterdir()} - {LOCK}):
            raise ConfigError(
                f"--output {self.path}: exists and is not empty, and is no run; choose another folder"
            )
        nearest = next(one for one in (self.path, *self.path.absolute().parents) if one.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise ConfigError(
                f"--output {self.path}: {nearest} cannot be written to; choose another folder, or let it be "
                "written to"
            )

    def check_used(self) -> None:
        """Raise ConfigError if it is no run."""
        if not (self.path / "config.yaml").is_file():
            raise ConfigError(
                f"--resume {self.path}: not a run folder, it has no config.yaml; name one that train made"
            )

    def locked(self) -> AbstractContextManager[None]:
        """While open, no other process can; raises ConfigError where one does."""
        return locked(self.path)

    def open(self, config: RunConfig, finished: int) -> None:
        """Write what is known at the start, and forget metrics from after ``finished`` iterations.

        Raises:
            WriteFailed: the system refused it.
        """
        for name in ("samples", "checkpoints"):
            with writing(self.path / name):
                (self.path / name).mkdir(parents=True, exist_ok=True)
        self.write("config.yaml", to_yaml(config))
        self.write("environment.json", json.dumps(environment(), indent=2) + "\n")
        evaluations.forget_after(self.path, finished, config.trainer.num_iterations)
        kept = {one.iteration for one in evaluations.read(self.path)}
        # An evaluation that was cut short may have its line already; it is made again, and with it the line.
        self.metrics.forget_after(
            finished, also=lambda line: _of_evaluation(line) and line["iteration"] not in kept
        )

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``."""
        self.metrics.append(metrics)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``."""
        self.write("summary.json", json.dumps(summary, indent=2) + "\n")

    def write(self, name: str, text: str) -> None:
        """Write a text file aside, then rename it."""
        with written_whole(self.path / name) as aside:
            aside.write_text(text, encoding="utf-8")

    def write_folder(self, name: str, fill: Callable[[Path], None]) -> None:
        """Fill a folder aside, then put it in the place of what was there."""
        path, aside, old = (self.path / f"{name}{end}" for end in ("", ".partial", ".old.partial"))
        with writing(path):
            for stale in (aside, old):
                shutil.rmtree(stale, ignore_errors=True)
            try:
                fill(aside)
                if path.exists():
                    path.rename(old)
                aside.rename(path)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                if old.exists():
                    old.rename(path)
                raise
            shutil.rmtree(old, ignore_errors=True)

    def _state(self) -> str:
        """How far the run that is there came, in words."""
        try:
            summary = json.loads((self.path / "summary.json").read_text(encoding="utf-8"))
            return f"{summary['status']} after {summary['steps']} iterations"
        except (OSError, ValueError, KeyError):
            return "which has not ended"


def environment() -> dict[str, Any]:
    """Versions, machine and git commit; nothing of the shell's environment, which may hold secrets."""
    import torch

    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "packages": found,
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "torch_threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "git": _git(),
    }


def _of_evaluation(line: Mapping[str, Any]) -> bool:
    return any(name.startswith("heldout/") for name in line)


def _git() -> dict[str, Any] | None:
    """The commit of the code that runs, and whether it was changed since; None outside a checkout."""
    here = Path(__file__).parent

    def ask(*command: str) -> str:
        done = subprocess.run(
            ["git", "-C", here, *command], capture_output=True, text=True, check=True, timeout=20
        )
        return done.stdout.strip()

    try:
        if ask("ls-files", "__init__.py") == "":
            return None  # installed inside some other project's checkout
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
