"""What a sweep compares: its settings, and the cells that follow from them.

A cell is one way to train.  It is an arm (settings that belong together) crossed with a value of each axis,
and is trained once a seed, on the same seeds and held-out scenes as every other cell.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rlnsp.plugins import nearest
from rlnsp.settings import ConfigError, require

BASE = "base"
"""The one cell of a sweep over seeds alone."""
RANGE_KEYS = {"low", "high", "log"}


@dataclass(frozen=True, kw_only=True)
class Range:
    """An axis without a list of values, for samplers that draw; whole numbers if both ends are."""

    low: float
    high: float
    log: bool = False


Axis = list[Any] | Range


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """One sweep."""

    config: str = "world"
    """What all cells begin with: a run's config, a shipped name or a file."""
    settings: dict[str, Any] = field(default_factory=dict)
    """By dotted key, what all cells have in place of its values."""
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By name, settings that belong together, such as an algorithm and the sampler that suits it."""
    axes: dict[str, Any] = field(default_factory=dict)
    """By dotted key, a list of values; every combination is a cell.  With ``random`` and ``tpe`` also a
    range, {low: 1e-5, high: 1e-3, log: true}."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Each cell is trained once a seed."""
    baseline: str | None = None
    """The cell that the others are compared to; None: the first."""
    metric: str = "nsp_reward"
    """The held-out measure that is compared: a reward that every cell has, or 'distance_to_future'."""
    sampler: Literal["grid", "random", "tpe"] = "grid"
    """Every cell, or ``budget`` cells that Optuna's sampler draws."""
    budget: int | None = None
    """Cells to draw; with ``grid`` there is none."""
    pruner: Literal["none", "median", "hyperband"] = "none"
    """Whether a trial is given up whose evaluations on the way are worse than others'."""
    storage: str | None = None
    """Where workers share what is to do: an RDB's URL, or 'journal', a file; None: SQLite.  Without a URL it
    is in the sweep's folder."""
    heartbeat_s: int = 20
    """A worker says so often that it lives; after three times this its trials are another's.  Not of a
    journal."""
    needs: dict[str, str] = field(default_factory=dict)
    """Files or folders that must be there before, each with what makes it."""

    def __post_init__(self) -> None:
        require(bool(self.seeds), "seeds must have at least one, such as [0, 1, 2]; got none")
        require(
            len(set(self.seeds)) == len(self.seeds) and min(self.seeds) >= 0,
            f"seeds must be different numbers of 0 or more; got {self.seeds}",
        )
        require(self.heartbeat_s >= 1, f"heartbeat_s must be at least 1; got {self.heartbeat_s}")
        ranges = [key for key, axis in self.parsed_axes.items() if isinstance(axis, Range)]
        if self.sampler == "grid":
            require(self.budget is None, f"budget is {self.budget}, but a grid runs every cell; remove it")
            require(
                not ranges,
                f"axes.{(ranges or [''])[0]} is a range, of which a grid cannot have every value; list "
                "values, or set sampler=random or tpe",
            )
        else:
            require(
                self.budget is not None and self.budget >= 1,
                f"sampler {self.sampler} needs a budget, the number of cells to draw; got {self.budget}",
            )
            require(bool(self.axes or self.arms), f"sampler {self.sampler} needs axes or arms to draw from")
        for arm, own in self.arms.items():
            twice = sorted(own.keys() & self.axes.keys())
            require(
                not twice,
                f"arms.{arm} and axes both set {(twice or [''])[0]}: remove it from one of the two",
            )
        names = [*self.settings, *self.axes, *(key for own in self.arms.values() for key in own)]
        require("seed" not in names, "seed is no setting of a sweep: its seeds are, as in seeds=[0, 1, 2]")

    @property
    def parsed_axes(self) -> dict[str, Axis]:
        """The axes, with ranges made out."""
        return {key: _axis(key, given) for key, given in self.axes.items()}

    @property
    def num_cells(self) -> int:
        """Cells that the sweep will have."""
        return len(list(grid(self))) if self.budget is None else self.budget


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One way to train."""

    name: str
    """As the table and ``baseline`` say it."""
    settings: Mapping[str, Any]
    """By dotted key, all that it has in place of the base config's values."""
    factors: Mapping[str, Any]
    """What it is by the sweep's own words: the arm, if there are any, and a value of each axis."""

    @property
    def overrides(self) -> list[str]:
        """For ``rlnsp.config.load``."""
        from rlnsp.config import override

        return [override(key, value) for key, value in self.settings.items()]

    @property
    def folder(self) -> str:
        """The name as a file's."""
        return re.sub(r"[^\w.=+-]+", "_", self.name)


def grid(sweep: SweepConfig) -> Iterator[Cell]:
    """Every cell, in the order of the arms and of the axes' values."""
    axes = sweep.parsed_axes
    values = [axis for axis in axes.values() if isinstance(axis, list)]
    for arm in sweep.arms or [None]:
        for chosen in itertools.product(*values):
            yield cell(sweep, arm, dict(zip(axes, chosen, strict=True)))


def nameable(sweep: SweepConfig) -> Iterator[Cell]:
    """The cells that a sweep can be told of by name: ranges at their ends."""
    return grid(dataclasses.replace(sweep, axes=_with_ends(sweep), sampler="grid", budget=None))


def each_value_once(sweep: SweepConfig) -> Iterator[Cell]:
    """A few cells, in one of which is every arm and every value, and both ends of every range."""
    axes = _with_ends(sweep)
    first = {key: values[0] for key, values in axes.items()}
    chosen = [first, *({**first, key: value} for key, values in axes.items() for value in values[1:])]
    for arm in sweep.arms or [None]:
        for values in chosen:
            yield cell(sweep, arm, values)


def cell(sweep: SweepConfig, arm: str | None, values: Mapping[str, Any]) -> Cell:
    """The cell of an arm and of a value of each axis."""
    short = short_names(list(values))
    parts = [*([] if arm is None else [arm]), *(f"{short[key]}={_shown(values[key])}" for key in values)]
    return Cell(
        name=", ".join(parts) or BASE,
        settings={**sweep.settings, **(sweep.arms[arm] if arm else {}), **values},
        factors={**({} if arm is None else {"arm": arm}), **values},
    )


def baseline(sweep: SweepConfig, names: Sequence[str]) -> str:
    """The name of the cell that the others are compared to.

    Raises:
        ConfigError: the sweep names one that it has not.
    """
    if sweep.baseline is None or sweep.baseline in names:
        return sweep.baseline or names[0]
    hint = nearest(sweep.baseline, names)
    raise ConfigError(
        f"baseline {sweep.baseline!r} is no cell of this sweep{hint}; its cells: {'; '.join(names)}"
    )


def _with_ends(sweep: SweepConfig) -> dict[str, list[Any]]:
    """The axes, a range as its ends."""
    axes = sweep.parsed_axes
    return {key: [axis.low, axis.high] if isinstance(axis, Range) else axis for key, axis in axes.items()}


def _axis(key: str, given: Any) -> Axis:
    if isinstance(given, Mapping):
        unknown = sorted(given.keys() - RANGE_KEYS)
        require(not unknown, f"axes.{key}: a range has low, high and log; got {', '.join(map(str, unknown))}")
        low: Any = given.get("low")
        high: Any = given.get("high")
        log = bool(given.get("log"))
        numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
        require(numbers and low < high, f"axes.{key}: a range is from low up to high; got {low} and {high}")
        require(not log or low > 0, f"axes.{key}: low must be above 0 where log is true; got {low}")
        return Range(low=low, high=high, log=log)
    values = list(given) if isinstance(given, list | tuple) else [given]
    require(
        bool(values) and values != [None],
        f"axes.{key} has no value; list at least one, as in axes: {{{key}: [...]}}",
    )
    twice = [value for value in values if values.count(value) > 1]
    require(not twice, f"axes.{key} has {(twice or [''])[0]} twice; list each value once")
    return values


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted key, or the whole where two would be alike; ``use`` tells nothing."""
    last = {key: key.removesuffix(".use").rpartition(".")[2] for key in keys}
    return {key: name if list(last.values()).count(name) == 1 else key for key, name in last.items()}


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
