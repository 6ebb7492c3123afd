"""The page of a sweep: its table, curves and clips of its cells side by side, and what each key matters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from markupsafe import Markup

from rlnsp.atomic import written_whole
from rlnsp.report import runs
from rlnsp.report.curves import SMOOTHED_OVER, Chart
from rlnsp.report.figures import Curve, chart, moving_average
from rlnsp.report.gallery import gallery
from rlnsp.report.page import inlined, templates
from rlnsp.report.runs import ReportedRun, known


@dataclass(frozen=True, kw_only=True)
class SweepPage:
    """What the page says; its words and figures are the sweep's."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    """Of the table, a cell's name first."""
    reads: Sequence[str]
    """Of each row: better, worse, unclear or nothing."""
    how_to_read: str
    conclusions: Sequence[str]
    importance: Mapping[str, float]
    about_importance: str
    runs: Mapping[str, Sequence[Path]]
    """By cell, the run folders that are here."""
    measures: Sequence[str]
    """Held-out, each with a drawing; clips have the scores of the first."""
    lower_is_better: bool
    """Of the first measure."""


def write_sweep_report(page: SweepPage, output: Path) -> Path:
    """Write the page, whole or not at all.

    Returns:
        ``output``.

    Raises:
        ConfigError: a file of a run cannot be read.
    """
    by_cell = [runs.load(folders) if folders else [] for folders in page.runs.values()]
    html = (
        templates()
        .get_template("sweep.html.j2")
        .render(
            page=page,
            cells=list(page.runs),
            charts=_charts(page, by_cell),
            gallery=gallery(_one_a_cell(page.runs, by_cell)),
            **inlined(),
        )
    )
    with written_whole(output) as aside:
        aside.write_text(html, encoding="utf-8")
    return output


def _one_a_cell(cells: Iterable[str], by_cell: Iterable[Sequence[ReportedRun]]) -> list[ReportedRun]:
    """The first seed's run of each cell, whose clips are shown under the cell's name."""
    return [replace(runs[0], name=cell) for cell, runs in zip(cells, by_cell, strict=True) if runs]


def _charts(page: SweepPage, by_cell: Sequence[Sequence[ReportedRun]]) -> list[Chart]:
    """Training reward and the held-out measures, a curve a cell: the mean over its seeds, and their span."""
    drawn = {"training reward": [_reward(number, part) for number, part in enumerate(by_cell)]}
    for measure in page.measures:
        drawn[f"held-out {measure}"] = [
            _heldout(number, part, measure) for number, part in enumerate(by_cell)
        ]
    charts = []
    for name, curves in drawn.items():
        shown = [curve for curve in curves if curve.y]
        if shown:
            charts.append(Chart(name=name, says="", svg=Markup(chart(shown, f"{name} of {page.title}"))))
    return charts


def _reward(number: int, cell: Sequence[ReportedRun]) -> Curve:
    points = []
    for run in cell:
        x, y = run.curve("reward")
        means, _ = moving_average(y, [0.0] * len(y), max(1, len(x) // SMOOTHED_OVER))
        points.append(dict(zip(x, means, strict=True)))
    return _curve(number, points, as_bars=False)


def _heldout(number: int, cell: Sequence[ReportedRun], measure: str) -> Curve:
    points = [
        {
            float(kept.iteration): kept.evaluation.interval(measure).mean
            for kept in run.evaluations
            if known(kept.evaluation.scores.get(measure, []))
        }
        for run in cell
    ]
    return _curve(number, points, as_bars=True)


def _curve(number: int, points: Sequence[Mapping[float, float]], as_bars: bool) -> Curve:
    """The mean over runs where all of them have a point."""
    shared = sorted(set.intersection(*map(set, points))) if points else []
    values = np.array([[one[x] for x in shared] for one in points], dtype=np.float64)
    if not shared:
        return Curve(number=number, x=[], y=[])
    return Curve(
        number=number,
        x=shared,
        y=values.mean(0).tolist(),
        low=values.min(0).tolist(),
        high=values.max(0).tolist(),
        as_bars=as_bars,
    )
