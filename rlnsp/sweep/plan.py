"""A sweep that was checked: every cell a config that ``rlnsp train`` takes, all comparable."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from rlnsp import config, plugins
from rlnsp.evaluate import LOWER_IS_BETTER
from rlnsp.settings import ConfigError, RunConfig
from rlnsp.sweep import design
from rlnsp.sweep.design import Cell, SweepConfig


@dataclass(frozen=True)
class Plan:
    """What a sweep is to do."""

    sweep: SweepConfig
    _read: dict[tuple[str, int], RunConfig] = field(default_factory=dict, compare=False, repr=False)
    """Configs by cell and seed, each read once: a base config that changes meanwhile changes nothing."""

    @cached_property
    def cells(self) -> list[Cell]:
        """Of a grid all; of a sweep whose sampler draws, none: they come as it goes."""
        return list(design.grid(self.sweep)) if self.sweep.budget is None else []

    def cell_of(self, factors: Mapping[str, Any]) -> Cell:
        """The cell that is this by the sweep's own words: an arm, and a value of each axis."""
        values = dict(factors)
        arm = values.pop("arm", None) if self.sweep.arms else None
        return design.cell(self.sweep, arm, values)

    @property
    def lower_is_better(self) -> bool:
        """Of the metric."""
        return self.sweep.metric in LOWER_IS_BETTER

    def run(self, cell: Cell, seed: int) -> RunConfig:
        """The config of one trial.

        Raises:
            ConfigError: it is none; the message names the cell.
        """
        if (cell.name, seed) in self._read:
            return self._read[cell.name, seed]
        try:
            overrides = [*cell.overrides, config.override("seed", seed)]
            run = config.load(self.sweep.config, overrides)
            algorithm = plugins.find("algorithms", run.algorithm.use)
            algorithm(config.plugin_settings("algorithms", run.algorithm, "algorithm"), run.sampler)
        except ConfigError as error:
            raise ConfigError(f"cell {cell.name!r}: {error}") from error
        self._read[cell.name, seed] = run
        return run

    def check(self) -> None:
        """Look at every cell before anything runs.

        Raises:
            ConfigError: a cell's config is wrong, cells cannot be compared, or something is missing.
        """
        for path, remedy in self.sweep.needs.items():
            if not Path(path).exists():
                raise ConfigError(f"{path} is not there, and this sweep needs it; {remedy}")
        cells = self.samples
        names = [cell.name for cell in cells]
        if self.sweep.baseline is not None:
            design.baseline(self.sweep, [cell.name for cell in design.nameable(self.sweep)])
        folders = [cell.folder for cell in cells]
        twice = [cell.name for cell in cells if folders.count(cell.folder) > 1]
        if twice:
            raise ConfigError(f"cells {'; '.join(twice)} would have one folder; name them further apart")
        runs = {cell.name: self.run(cell, self.sweep.seeds[0]) for cell in cells}
        for name, run in runs.items():
            self._check_comparable(name, run, runs[names[0]], names[0])

    def _check_comparable(self, name: str, run: RunConfig, first: RunConfig, first_name: str) -> None:
        metric = self.sweep.metric
        known = [*run.rewards, "distance_to_future"]
        if metric not in known:
            raise ConfigError(
                f"metric {metric!r} is not measured in cell {name!r}{plugins.nearest(metric, known)}; it has "
                f"{', '.join(known)}; a reward of weight 0 is measured and not optimised"
            )
        if self.sweep.pruner != "none" and not 0 < run.evaluation.every < run.trainer.num_iterations:
            raise ConfigError(
                f"pruner {self.sweep.pruner} decides by evaluations on the way, of which cell {name!r} has "
                f"none; set evaluation.every below its {run.trainer.num_iterations} iterations"
            )
        for what in ("num_scenes", "seed", "num_seeds"):
            own, other = (getattr(one.evaluation, what) for one in (run, first))
            if own != other:
                raise ConfigError(
                    f"cells {name!r} and {first_name!r} have evaluation.{what} {own} and {other}, so that "
                    "their scenes cannot be paired; evaluate all alike"
                )
        if run.data.heldout != first.data.heldout:
            raise ConfigError(
                f"cells {name!r} and {first_name!r} have data.heldout {run.data.heldout!r} and "
                f"{first.data.heldout!r}, so that their scenes cannot be paired; evaluate all alike"
            )
        slots = [one.rewards.get(metric) for one in (run, first)]
        asked = [slot and (slot.use, slot.config) for slot in slots]
        if asked[0] != asked[1]:
            raise ConfigError(
                f"cells {name!r} and {first_name!r} measure {metric!r} in different ways: {asked[0]} and "
                f"{asked[1]}; give what differs a name of its own"
            )

    @property
    def samples(self) -> list[Cell]:
        """The cells, or, of a sweep that draws them, a few in which everything that it may draw is."""
        return self.cells or list(design.each_value_once(self.sweep))

    @cached_property
    def content(self) -> dict[str, Any]:
        """What makes two sweeps the same: their settings, and those of each cell, whatever its base says.

        Without the storage, whose URL may hold a password.
        """
        seed = self.sweep.seeds[0]
        runs = {cell.name: yaml.safe_load(config.to_yaml(self.run(cell, seed))) for cell in self.samples}
        settings = {key: value for key, value in dataclasses.asdict(self.sweep).items() if key != "storage"}
        return {"sweep": settings, "cells": runs}
