"""What a sweep came to, cell by cell: from its trials to figures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from optuna.study import Study
from optuna.trial import TrialState

from rlnsp.evaluate import DISTANCE, LOWER_IS_BETTER
from rlnsp.settings import ConfigError, RunConfig
from rlnsp.sweep import study as queue
from rlnsp.sweep.design import baseline
from rlnsp.sweep.plan import Plan
from rlnsp.sweep.statistics import Difference, SeedMean, holm, over_seeds, paired_difference
from rlnsp.sweep.trial import Result, mean
from rlnsp.sweep.work import Work, work

CHANCE = 0.05
"""An adjusted p below this counts as a difference."""


@dataclass(frozen=True, kw_only=True)
class CellOutcome:
    """One cell's figures."""

    name: str
    folder: str
    """What the names of its runs' folders begin with."""
    factors: Mapping[str, Any]
    results: Mapping[int, Result]
    """By seed, of the runs that are done."""
    states: Mapping[int, str]
    """By seed: done, pruned, failed or to do."""
    metric: str
    work: Work | None
    """Of an iteration.  None: there is none, or no run has shown that its settings go together."""
    start: float
    """The metric before training, mean over seeds; NaN where no run is done."""
    end: SeedMean | None
    """After training."""
    distance: SeedMean | None
    """To the nearest true future, after; a second measure, which lower is better of."""
    minutes: float
    """Mean over seeds."""
    difference: Difference | None = None
    """To the baseline; None: it is the baseline, or the two share no seed."""
    p_adjusted: float | None = None
    """Holm's, over all comparisons of the table."""

    @property
    def ends(self) -> list[float]:
        """The metric after training, a seed each."""
        return [one.mean(self.metric) for one in self.results.values()]

    def reads(self) -> str:
        """What the difference allows to say: better, worse or unclear; nothing where there is none."""
        if self.difference is None or self.p_adjusted is None:
            return ""
        if self.p_adjusted >= CHANCE:
            return "unclear"
        return "better" if (self.difference.mean > 0) != (self.metric in LOWER_IS_BETTER) else "worse"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A sweep's figures."""

    metric: str
    baseline: str
    seeds: list[int]
    cells: list[CellOutcome]
    errors: Mapping[str, str] = field(default_factory=dict)
    """Of runs that failed, by cell and seed."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return all(state in {"done", "pruned"} for cell in self.cells for state in cell.states.values())


def outcome(plan: Plan, study: Study) -> Outcome:
    """The figures of what is done so far."""
    sweep = plan.sweep
    trials = queue.results(study)
    drawn = [plan.cell_of(queue.factors_of(trial)) for trial in trials]
    cells = plan.cells or list({cell.name: cell for cell in drawn}.values())
    by_cell: dict[str, dict[int, Any]] = {cell.name: {} for cell in cells}
    errors = {}
    for trial in trials:
        name, seed = queue.key(trial)
        if name not in by_cell or seed not in sweep.seeds:
            continue
        by_cell[name][seed] = trial
        if trial.state == TrialState.FAIL and queue.ERROR in trial.user_attrs:
            errors[f"{name}, seed {seed}"] = trial.user_attrs[queue.ERROR]
    made = []
    for cell in cells:
        found = by_cell[cell.name]
        results = {
            seed: Result(**json.loads(found[seed].user_attrs[queue.RESULT]))
            for seed in sweep.seeds
            if seed in found and found[seed].state == TrialState.COMPLETE
        }
        run: RunConfig | None = plan.run(cell, sweep.seeds[0]) if plan.cells or results else None
        made.append(
            CellOutcome(
                name=cell.name,
                folder=cell.folder,
                factors=cell.factors,
                results=results,
                states={seed: _state(found.get(seed)) for seed in sweep.seeds},
                metric=sweep.metric,
                work=work(run) if run and run.trainer.num_iterations else None,
                start=_mean([mean(one.before[sweep.metric]) for one in results.values()]),
                end=_over_seeds(results, sweep.metric),
                distance=_over_seeds(results, DISTANCE),
                minutes=_mean([one.wall_s / 60 for one in results.values()]),
            )
        )
    against = baseline(sweep, [cell.name for cell in made]) if made else ""
    return Outcome(
        metric=sweep.metric,
        baseline=against,
        seeds=sweep.seeds,
        cells=_compared(made, against),
        errors=errors,
    )


def _state(trial: Any) -> str:
    names = {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    return "to do" if trial is None else names.get(trial.state, "to do")


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _over_seeds(results: Mapping[int, Result], measure: str) -> SeedMean | None:
    means = [one.mean(measure) for one in results.values()]
    known = [value for value in means if value == value]
    return over_seeds(known) if known else None


def _compared(cells: Sequence[CellOutcome], against: str) -> list[CellOutcome]:
    """The cells with their differences to the baseline."""
    base = next((cell for cell in cells if cell.name == against), None)
    differences = [None if base is None or cell is base else _difference(base, cell) for cell in cells]
    tested = [one.p for one in differences if one is not None]
    adjusted = iter(holm(tested))
    return [
        replace(cell, difference=one, p_adjusted=None if one is None else next(adjusted))
        for cell, one in zip(cells, differences, strict=True)
    ]


def _difference(base: CellOutcome, cell: CellOutcome) -> Difference | None:
    shared = [seed for seed in base.results if seed in cell.results]
    if not shared:
        return None
    digests = {one.results[seed].scenes for one in (base, cell) for seed in shared}
    if len(digests) > 1:
        raise ConfigError(
            f"cells {base.name!r} and {cell.name!r} were evaluated on different held-out scenes, as the runs "
            "themselves say: the data have changed since; run the sweep in a new folder"
        )
    first, second = (
        np.array([one.results[seed].after[cell.metric] for seed in shared], dtype=np.float64)
        for one in (base, cell)
    )
    if np.isnan(second - first).any(0).all():
        return None
    return paired_difference(first, second)
