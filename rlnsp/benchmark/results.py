"""What a benchmark found: a row an entry, and each row against the first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlnsp.benchmark.entries import Entry
from rlnsp.benchmark.meter import Meter
from rlnsp.evaluate import Evaluation, Interval, MakeClips, bootstrap_mean, evaluate_clips
from rlnsp.scoring import BuiltReward
from rlnsp.settings import RunConfig
from rlnsp.sweep.statistics import Difference, holm, paired_difference
from rlnsp.types import Sample, Scene


@dataclass(frozen=True, kw_only=True)
class Row:
    """One entry's figures."""

    name: str
    evaluation: Evaluation
    seconds_a_clip: float | None
    """None for clips that were not made here; so is the next."""
    peak_bytes: int | None
    memory_of: str = ""
    """'GPU', or 'process' where it is the resident memory."""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How much higher a row is than the first, on one measure, scene by scene."""

    difference: Difference
    """Its ``p`` is adjusted by Holm for all comparisons of the table."""
    higher: int
    """Scenes on which the row is higher,"""
    lower: int
    """or lower; of equals there are the rest."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """A table's content."""

    scenes: Sequence[Scene]
    rows: list[Row]
    by: str = ""
    """The column by which scenes are told apart; empty: none."""

    @property
    def measures(self) -> list[str]:
        """Those that could be taken of some entry, in order."""
        names = dict.fromkeys(name for row in self.rows for name in row.evaluation.scores)
        return [name for name in names if any(self._known(row, name) for row in self.rows)]

    @staticmethod
    def _known(row: Row, measure: str) -> int:
        scores = row.evaluation.scores.get(measure, [])
        return int((~np.isnan(np.array(scores, dtype=np.float64))).sum())

    def comparisons(self) -> dict[tuple[str, str], Comparison]:
        """By row and measure; of the measures that both were taken of on some scene."""
        found: dict[tuple[str, str], Comparison] = {}
        for row in self.rows[1:]:
            for measure in self.measures:
                first, other = (_scores(one, measure) for one in (self.rows[0], row))
                if np.isnan(other - first).all():
                    continue
                found[row.name, measure] = Comparison(
                    difference=paired_difference(first[None], other[None]),
                    higher=int((other > first).sum()),
                    lower=int((other < first).sum()),
                )
        adjusted = holm([one.difference.p for one in found.values()])
        return {
            key: Comparison(
                difference=Difference(**{**vars(one.difference), "p": p}), higher=one.higher, lower=one.lower
            )
            for (key, one), p in zip(found.items(), adjusted, strict=True)
        }

    def categories(self) -> dict[str, dict[str, dict[str, Interval]]]:
        """By row, category and measure; nothing where scenes have none."""
        of = [str(scene.columns.get(self.by, "")) for scene in self.scenes]
        names = [name for name in dict.fromkeys(of) if name]
        return {
            row.name: {
                name: {
                    measure: bootstrap_mean(
                        _scores(row, measure)[[one == name for one in of]], row.evaluation.bootstrap
                    )
                    for measure in self.measures
                }
                for name in names
            }
            for row in self.rows
            if names
        }

    def to_json(self) -> dict[str, Any]:
        """Per entry and measure: mean, ci95, number of scenes, and the same less the first entry's."""
        answer: dict[str, Any] = {}
        comparisons, categories = self.comparisons(), self.categories()
        for row in self.rows:
            against = {
                measure: {
                    **{key: value for key, value in vars(one.difference).items() if key != "seeds"},
                    "higher": one.higher,
                    "lower": one.lower,
                }
                for (name, measure), one in comparisons.items()
                if name == row.name
            }
            answer[row.name] = {
                "measures": {
                    measure: _as_json(row.evaluation.interval(measure)) for measure in row.evaluation.scores
                },
                "seconds_a_clip": row.seconds_a_clip,
                "peak_bytes": row.peak_bytes,
                "memory_of": row.memory_of,
                "how": row.evaluation.how,
                "notes": row.notes,
                **({"less": {"baseline": self.rows[0].name, "measures": against}} if against else {}),
                "categories": {
                    name: {measure: _as_json(one) for measure, one in found.items()}
                    for name, found in categories.get(row.name, {}).items()
                },
            }
        return answer


def measure(
    entry: Entry,
    opened: tuple[MakeClips, Meter | None],
    scenes: Sequence[Scene],
    rewards: Sequence[BuiltReward],
    run: RunConfig,
    seen: Callable[[Sequence[Sample], int], None],
    measured: Callable[[Sequence[Sample], int], None],
) -> Row:
    """The row of one entry, open already; ``seen`` and ``measured`` as ``evaluate_clips`` has them."""
    make, meter = opened
    evaluation = evaluate_clips(
        make,
        scenes,
        rewards,
        run.evaluation,
        chunk_size=run.trainer.micro_batch_size,
        how=entry.how,
        seen=seen,
        measured=measured,
    )
    return Row(
        name=entry.name,
        evaluation=evaluation,
        seconds_a_clip=meter and meter.seconds_a_clip,
        peak_bytes=meter and meter.peak_bytes,
        memory_of="" if meter is None else "GPU" if meter.device.type == "cuda" else "process",
        notes=entry.notes,
    )


def _scores(row: Row, measure: str) -> np.ndarray:
    missing = [np.nan] * len(row.evaluation.scene_ids)
    return np.array(row.evaluation.scores.get(measure, missing), dtype=np.float64)


def _as_json(one: Interval) -> Mapping[str, Any] | None:
    return {"mean": one.mean, "ci95": one.ci95, "n": one.n} if one.n else None
