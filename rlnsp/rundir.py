"""The folder that a run leaves: what was asked, where it ran, what happened, what came out."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rlnsp.atomic import written_whole
from rlnsp.config import to_yaml
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
        """Raise ConfigError if something is there already."""
        if self.path.is_file() or (self.path.is_dir() and any(self.path.iterdir())):
            raise ConfigError(
                f"--output {self.path}: exists and is not empty; go on with it by --resume {self.path}, "
                "or choose another folder"
            )

    def open(self, config: RunConfig, finished: int) -> None:
        """Write what is known at the start, and forget metrics from after ``finished`` iterations."""
        for name in ("samples", "checkpoints"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        self.write("config.yaml", to_yaml(config))
        self.write("environment.json", json.dumps(environment(), indent=2) + "\n")
        self.metrics.forget_after(finished)

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
        path, aside = self.path / name, self.path / f"{name}.partial"
        shutil.rmtree(aside, ignore_errors=True)
        fill(aside)
        shutil.rmtree(path, ignore_errors=True)
        aside.rename(path)


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
        "torch_threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "git": _git(),
    }


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
