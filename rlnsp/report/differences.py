"""What is particular about a run's settings: against the nearest shipped config, and against other runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlnsp import config
from rlnsp.report.runs import ReportedRun

ABSENT = "(none)"
DEFAULT = "world"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A shipped config, and what a run has in place of its values."""

    name: str
    differences: dict[str, tuple[Any, Any]]
    """By dotted key: the preset's value, the run's."""


def nearest_preset(run: ReportedRun) -> Preset:
    """The shipped config from which the fewest settings differ; of equals the default, then by name.

    A run keeps its settings resolved, not what they were written as, so the nearest is found, not remembered.
    """
    shipped = config.shipped()
    names = sorted(shipped, key=lambda name: (name != DEFAULT, name))
    found = [Preset(name=name, differences=_against(_settings(name), run.settings)) for name in names]
    return min(found, key=lambda preset: len(preset.differences))


def between(runs: Sequence[ReportedRun]) -> dict[str, list[Any]]:
    """The settings in which the runs are not all alike, a value a run."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    rows = {key: [run.settings.get(key, ABSENT) for run in runs] for key in keys}
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


def _settings(name: str) -> dict[str, Any]:
    return config.by_key(config.load(name))


def _against(preset: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = dict.fromkeys([*preset, *settings])
    pairs = {key: (preset.get(key, ABSENT), settings.get(key, ABSENT)) for key in keys}
    return {key: (theirs, ours) for key, (theirs, ours) in pairs.items() if theirs != ours}
