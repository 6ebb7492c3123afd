"""Held-out figures of runs side by side, each with its interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlnsp.evaluate import LOWER_IS_BETTER, Evaluation, Interval, bootstrap_mean, paired_difference
from rlnsp.evaluations import KeptEvaluation
from rlnsp.report.runs import ReportedRun


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run on one measure."""

    run: str
    measure: str
    lower_is_better: bool
    before: Interval | None
    after: Interval | None
    change: Interval | None
    """After less before, scene by scene."""
    less_first: Interval | None
    """After, less the first run's after, scene by scene; over the scenes that both were evaluated on."""


def rows(runs: Sequence[ReportedRun]) -> list[Row]:
    """A row a measure and run; measures that nobody could take are left out."""
    measures = dict.fromkeys(
        name for run in runs for kept in run.evaluations for name in kept.evaluation.scores
    )
    made = [_row(run, runs[0], measure) for measure in measures for run in runs]
    return [row for row in made if row.before or row.after]


def on_shared_scenes(one: KeptEvaluation, other: KeptEvaluation, measure: str) -> Interval | None:
    """How much higher ``other`` is, over scenes of the same id and text; None where there are none."""
    first, second = (
        {
            (scene, context): score
            for scene, context, score in zip(
                kept.evaluation.scene_ids,
                kept.contexts,
                kept.evaluation.scores.get(measure, []),
                strict=False,  # a measure that was not taken has no score
            )
        }
        for kept in (one, other)
    )
    differences = [second[key] - score for key, score in first.items() if key in second]
    return _known(bootstrap_mean(np.array(differences, dtype=np.float64), other.evaluation.bootstrap))


def unlike(runs: Sequence[ReportedRun]) -> list[str]:
    """How the newest evaluations were made otherwise than the first run's: what a comparison must know."""
    made = [(run.name, run.last.evaluation.how) for run in runs if run.last]
    return [
        f"{name}: {key} {how.get(key)} instead of {made[0][1].get(key)}"
        for name, how in made[1:]
        for key in {**made[0][1], **how}
        if how.get(key) != made[0][1].get(key)
    ]


def _row(run: ReportedRun, baseline: ReportedRun, measure: str) -> Row:
    before, after = (_interval(kept, measure) for kept in (run.first, run.last))
    change = None
    if run.first and run.last and before and after:
        change = _known(paired_difference(run.first.evaluation, run.last.evaluation, measure))
    less_first = None
    if run is not baseline and run.last and baseline.last:
        less_first = on_shared_scenes(baseline.last, run.last, measure)
    return Row(
        run=run.name,
        measure=measure,
        lower_is_better=measure in LOWER_IS_BETTER or run.rewards.get(measure, 0) < 0,
        before=before,
        after=after,
        change=change,
        less_first=less_first,
    )


def _interval(kept: KeptEvaluation | None, measure: str) -> Interval | None:
    if kept is None:
        return None
    evaluation: Evaluation = kept.evaluation
    return _known(evaluation.interval(measure)) if measure in evaluation.scores else None


def _known(interval: Interval) -> Interval | None:
    return None if math.isnan(interval.mean) else interval
