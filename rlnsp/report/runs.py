"""Run folders, read for a report."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlnsp import evaluations
from rlnsp.config import flat
from rlnsp.evaluations import KeptEvaluation
from rlnsp.opening import is_run
from rlnsp.settings import ConfigError


@dataclass(frozen=True, kw_only=True)
class ReportedRun:
    """What a run folder holds; a run that is under way or was cut short has less."""

    name: str
    path: Path
    settings: Mapping[str, Any]
    """Of ``config.yaml``, by dotted key."""
    environment: Mapping[str, Any]
    summary: Mapping[str, Any]
    """Empty where the run has not ended."""
    iterations: Sequence[Mapping[str, Any]]
    """Of ``metrics.jsonl``, the lines of training."""
    evaluations: Sequence[KeptEvaluation]
    """In the order of training."""

    @property
    def rewards(self) -> dict[str, float]:
        """The weight of each reward, by name; the first that has one is the metric."""
        keys = [key.split(".") for key in self.settings if key.startswith("rewards.")]
        return {parts[1]: float(self.settings[".".join(parts)]) for parts in keys if parts[2:] == ["weight"]}

    @property
    def metric(self) -> str:
        """The reward that heads the report."""
        return next(name for name, weight in self.rewards.items() if weight)

    @property
    def first(self) -> KeptEvaluation | None:
        """The evaluation before training."""
        return next((kept for kept in self.evaluations if kept.when == "before"), None)

    @property
    def last(self) -> KeptEvaluation | None:
        """The newest evaluation after some training."""
        return next((kept for kept in reversed(self.evaluations) if kept.when != "before"), None)

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """Iterations and a metric of theirs, where it is known."""
        known = [line for line in self.iterations if isinstance(line.get(name), int | float)]
        return [line["iteration"] for line in known], [float(line[name]) for line in known]


def load(paths: Sequence[Path]) -> list[ReportedRun]:
    """The runs of these folders.

    Raises:
        ConfigError: one is no run folder, is given twice, or holds a file that cannot be read.
    """
    for path in paths:
        if (path / "sweep.yaml").is_file():
            raise ConfigError(
                f"{path}: is a sweep; its own report is {path / 'report.html'}, "
                f"and its runs, which can be named here, are in {path / 'runs'}"
            )
        if not is_run(path):
            raise ConfigError(f"{path}: not a run folder, it has no config.yaml; name one that train made")
        if [other.resolve() for other in paths].count(path.resolve()) > 1:
            raise ConfigError(f"{path}: is given twice; give each run once")
    short = [path.resolve().name for path in paths]
    names = short if len(set(short)) == len(short) else [str(path) for path in paths]
    return [_load(path, name) for path, name in zip(paths, names, strict=True)]


def _load(path: Path, name: str) -> ReportedRun:
    try:
        return ReportedRun(
            name=name,
            path=path,
            settings=flat(yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))),
            environment=_json(path / "environment.json"),
            summary=_json(path / "summary.json"),
            iterations=[line for line in _lines(path / "metrics.jsonl") if "reward" in line],
            evaluations=evaluations.read(path),
        )
    except (OSError, yaml.YAMLError, ValueError, TypeError, KeyError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{path}: a file of this run cannot be read ({what}); report the others") from error


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines; the last may be in the writing."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def known(values: Sequence[float]) -> list[float]:
    """Those that are numbers."""
    return [value for value in values if not math.isnan(value)]
