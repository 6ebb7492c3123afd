"""A sweep's table: as Markdown, as CSV, as JSON, and in words."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from rlnsp.evaluate import DISTANCE, LOWER_IS_BETTER
from rlnsp.sweep.importance import Importance
from rlnsp.sweep.outcome import CHANCE, CellOutcome, Outcome
from rlnsp.sweep.statistics import RESAMPLES, Difference, SeedMean

FEW_SEEDS = 5
HEAD = (
    "cell",
    "before",
    "after, 95% over seeds",
    "each seed",
    "less the baseline, 95%",
    "p (Holm)",
    "reads as",
    "distance",
    "minutes",
    "model calls",
    "trained steps",
)


def markdown(outcome: Outcome, matters: Importance) -> str:
    """The page: the table, what can be concluded, what each key matters, and how to read it."""
    cells = [[text.replace("|", "\\|") for text in row] for row in rows(outcome)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in [HEAD, ["---"] * len(HEAD), *cells])
    said = "\n".join(f"- {line}" for line in conclusions(outcome))
    shares = ", ".join(f"{name} {share:.0%}" for name, share in matters.shares.items())
    return (
        "\n\n".join([table, said, *([shares] if shares else []), matters.said, how_to_read(outcome)]) + "\n"
    )


def rows(outcome: Outcome) -> list[tuple[str, ...]]:
    """A row a cell, by ``HEAD``."""
    return [_cells(cell, outcome) for cell in outcome.cells]


def plain(text: str) -> str:
    """Without Markdown's marks."""
    return text.replace("*", "")


def how_to_read(outcome: Outcome) -> str:
    """What the columns are."""
    better = "lower" if outcome.metric in LOWER_IS_BETTER else "higher"
    return (
        f"Held-out {outcome.metric}, {better} is better. The 95% interval of a mean is Student's t over "
        f"seeds. Differences are to *{outcome.baseline}*, paired by seed and scene; their standard error is "
        f"a bootstrap over seeds and scenes at once ({RESAMPLES:,} resamples), the interval Student's t with "
        "Satterthwaite's degrees of freedom, each at 95% by itself; p is adjusted by Holm for all "
        f"comparisons of the table, and *better* or *worse* is said where it is below {CHANCE:g}. "
        "*distance* is to the nearest true future, lower is better. Minutes are the mean "
        "of a run, held-out evaluations included; model calls are forwards of one sample in an iteration, "
        "trained steps the share of its steps that have a gradient."
    )


def conclusions(outcome: Outcome) -> list[str]:
    """What can be said of the sweep, and what cannot."""
    compared = [cell for cell in outcome.cells if cell.difference is not None]
    said = []
    for reads, words in (("better", "better than"), ("worse", "worse than")):
        names = [f"*{cell.name}*" for cell in compared if cell.reads() == reads]
        if names:
            said.append(f"{_listed(names)} {_be(names)} {words} *{outcome.baseline}*.")
    unclear = [cell for cell in compared if cell.reads() == "unclear"]
    if unclear:
        names = [f"*{cell.name}*" for cell in unclear]
        widest = max((cell.difference.high - cell.difference.low) / 2 for cell in unclear if cell.difference)
        said.append(
            f"Of {_listed(names)} it cannot be said whether {_they(names)} better or worse than "
            f"*{outcome.baseline}*; that is no proof that they are alike: differences up to about "
            f"{widest:.2g} could have gone unseen."
        )
    seeds = min((len(cell.results) for cell in compared), default=len(outcome.seeds))
    if seeds < 2:
        said.append(
            "With one seed nothing is known of how another seed would come out; intervals of differences are "
            "over scenes alone."
        )
    elif seeds < FEW_SEEDS:
        said.append(
            f"{seeds} seeds are few: how much training itself varies is estimated from {seeds} runs a cell, "
            "so that intervals over seeds are wide and p values rough."
        )
    left = [
        f"*{cell.name}* (seed {seed}: {state})"
        for cell in outcome.cells
        for seed, state in cell.states.items()
        if state != "done"
    ]
    if left:
        said.append(f"Not in the figures: {_listed(left)}.")
    if not compared:
        said.append("There is nothing to compare yet." if left else "There is one cell: nothing to compare.")
    return said


def csv_of(outcome: Outcome) -> str:
    """A line a cell, all digits."""
    lines = [_record(cell) for cell in outcome.cells]
    fields = list(dict.fromkeys(name for line in lines for name in line))
    written = io.StringIO()
    writer = csv.DictWriter(written, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return written.getvalue()


def to_json(outcome: Outcome, matters: Importance) -> dict[str, Any]:
    """``summary.json``."""
    return {
        "status": "done" if outcome.complete else "unfinished",
        "metric": outcome.metric,
        "baseline": outcome.baseline,
        "seeds": outcome.seeds,
        "cells": [
            _record(cell) | {"factors": dict(cell.factors), "folder": cell.folder} for cell in outcome.cells
        ],
        "importance": {"shares": dict(matters.shares), "said": matters.said},
        "conclusions": conclusions(outcome),
        "errors": dict(outcome.errors),
    }


def _record(cell: CellOutcome) -> dict[str, Any]:
    known = cell.difference
    return {
        "cell": cell.name,
        "seeds": len(cell.results),
        "before": _number(cell.start),
        **_mean("after", cell.end),
        **{f"after_seed{seed}": one.mean(cell.metric) for seed, one in cell.results.items()},
        "difference": known and known.mean,
        "difference_low": known and known.low,
        "difference_high": known and known.high,
        "p": known and known.p,
        "p_holm": cell.p_adjusted,
        "reads_as": cell.reads(),
        **_mean(DISTANCE, cell.distance),
        "minutes": _number(cell.minutes),
        "forwards_an_iteration": cell.work and cell.work.forwards,
        "trained_fraction": cell.work and cell.work.trained_fraction,
    }


def _mean(name: str, found: SeedMean | None) -> dict[str, float | None]:
    ends = {"mean": found and found.mean, "low": found and found.low, "high": found and found.high}
    return {f"{name}_{end}": value for end, value in ends.items()}


def _number(value: float) -> float | None:
    return None if value != value else value


def _cells(cell: CellOutcome, outcome: Outcome) -> tuple[str, ...]:
    is_baseline = cell.name == outcome.baseline
    return (
        cell.name + (" (baseline)" if is_baseline else ""),
        _figure(cell.start),
        _interval(cell.end),
        ", ".join(f"{end:.2f}" for end in cell.ends) or "–",
        _difference(cell.difference),
        "" if cell.p_adjusted is None else _p(cell.p_adjusted),
        cell.reads(),
        "–" if cell.distance is None else f"{cell.distance.mean:.4f}",
        "–" if cell.minutes != cell.minutes else f"{cell.minutes:.1f}",
        "–" if cell.work is None else str(cell.work.forwards),
        "–" if cell.work is None else f"{cell.work.trained_fraction:.0%}",
    )


def _figure(value: float) -> str:
    return "–" if value != value else f"{value:.3f}"


def _interval(found: SeedMean | None) -> str:
    if found is None:
        return "–"
    ends = "" if found.low is None or found.high is None else f" [{found.low:.3f}, {found.high:.3f}]"
    return f"{found.mean:.3f}{ends}"


def _difference(found: Difference | None) -> str:
    return "" if found is None else f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _they(names: Sequence[str]) -> str:
    return "it is" if len(names) == 1 else "they are"


def _be(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
