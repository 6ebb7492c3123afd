"""A benchmark's results as tables: on the terminal, and as files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rlnsp.atomic import written_whole
from rlnsp.benchmark.results import Comparison, Results, Row
from rlnsp.evaluate import DISTANCE, LOWER_IS_BETTER, Interval

if TYPE_CHECKING:
    from rich.table import Table

GIB = 1024**3
UNKNOWN = "-"


def terminal(results: Results) -> list[Table]:
    """Policies by measures; and each against the first."""
    from rich.table import Table

    table = Table(title=_title(results), title_justify="left", show_lines=True)
    for number, column in enumerate(_head(results)):
        # Between words a narrow terminal can break a line.
        table.add_column(column.replace("_", " "), justify="right" if number else "left", overflow="fold")
    for row in results.rows:
        table.add_row(*_cells(row, results, two_lines=True))
    table.caption, table.caption_justify = "\n".join(_notes(results)) or None, "left"
    comparisons = results.comparisons()
    if not comparisons:
        return [table]
    against = Table(title=f"difference from {results.rows[0].name}, scene by scene", title_justify="left")
    for number, column in enumerate(AGAINST):
        against.add_column(column, justify="right" if number > 1 else "left", overflow="fold")
    for (name, measure), one in comparisons.items():
        against.add_row(*_compared(name, measure.replace("_", " "), one))
    return [table, against]


def markdown(results: Results) -> str:
    """The same as a page, and the means of each category."""
    parts = [f"{_title(results)}.", _table(_head(results), [_cells(row, results) for row in results.rows])]
    parts += ["\n".join(f"- {note}" for note in _notes(results))]
    comparisons = results.comparisons()
    if comparisons:
        rows = [_compared(name, measure, one) for (name, measure), one in comparisons.items()]
        parts += [
            f"Difference from *{results.rows[0].name}*, scene by scene:",
            _table(AGAINST, rows),
            HOW_TO_READ,
        ]
    categories = results.categories()
    for measure in results.measures if categories else []:
        names = list(next(iter(categories.values())))
        rows = [[row, *(_mean(found[name][measure]) for name in names)] for row, found in categories.items()]
        parts += [f"{measure} by {results.by}:", _table(["", *names], rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def as_csv(results: Results) -> str:
    """A line a policy and measure."""
    comparisons = results.comparisons()
    lines = [
        ["policy", "measure", "mean", "low", "high", "scenes", "less_first", "less_low", "less_high", "p"]
        + ["seconds_a_clip", "peak_bytes"]
    ]
    for row in results.rows:
        for measure in results.measures:
            one, against = _interval(row, measure), comparisons.get((row.name, measure))
            less = against and against.difference
            found = [one.mean, one.low, one.high] if one else [None] * 3
            change = [less.mean, less.low, less.high, less.p] if less else [None] * 4
            own = [*found, one.n if one else 0, *change, row.seconds_a_clip, row.peak_bytes]
            lines.append([row.name, measure, *("" if value is None else str(value) for value in own)])
    return _csv(lines)


def scores_csv(results: Results) -> str:
    """A line a policy, scene and measure: the mean over seeds; empty where nothing could be measured."""
    lines = [["policy", "scene", results.by or "category", "measure", "score"]]
    for row in results.rows:
        for measure in results.measures:
            for scene, value in zip(results.scenes, row.evaluation.scores.get(measure, []), strict=False):
                told = f"{value:.7g}" if value == value else ""  # rewards are fp32
                lines.append([row.name, scene.id, str(scene.columns.get(results.by, "")), measure, told])
    return _csv(lines)


def write(results: Results, folder: Path) -> None:
    """``table.md``, ``table.csv``, ``scores.csv`` and ``results.json``.

    Raises:
        WriteFailed: the system refused one of them.
    """
    texts = {
        "table.md": markdown(results),
        "table.csv": as_csv(results),
        "scores.csv": scores_csv(results),
        "results.json": json.dumps(results.to_json(), indent=2) + "\n",
    }
    for name, text in texts.items():
        with written_whole(folder / name) as aside:
            aside.write_text(text, encoding="utf-8")


AGAINST = ["policy", "measure", "difference", "95% interval", "p (Holm)", "scenes higher, lower"]
HOW_TO_READ = (
    "Differences are paired by scene and noise; their interval and p are Student's t with a bootstrap's "
    "standard error, and p is adjusted by Holm for all comparisons here."
)


def _title(results: Results) -> str:
    seeds = max((len(row.evaluation.how["seeds"]) for row in results.rows), default=1)
    return f"{len(results.scenes)} held-out scenes" + (f", {seeds} clips of each" if seeds > 1 else "")


def _head(results: Results) -> list[str]:
    arrows = [f"{name} {'↓' if name in LOWER_IS_BETTER else '↑'}" for name in results.measures]
    return ["policy", *arrows, "s a clip", "GiB"]


def _cells(row: Row, results: Results, *, two_lines: bool = False) -> list[str]:
    figures = [_figure(_interval(row, measure), two_lines=two_lines) for measure in results.measures]
    seconds = UNKNOWN if row.seconds_a_clip is None else f"{row.seconds_a_clip:.3g}"
    memory = UNKNOWN if row.peak_bytes is None else f"{row.peak_bytes / GIB:.2f}"
    return [row.name, *figures, seconds, memory]


def _figure(one: Interval | None, *, two_lines: bool) -> str:
    if one is None or not one.n:
        return UNKNOWN
    ends = f"{one.low:.3f} to {one.high:.3f}"
    return f"{_mean(one)}\n{ends}" if two_lines else f"{_mean(one)} ({ends})"


def _notes(results: Results) -> list[str]:
    notes = [f"{row.name}: {note}" for row in results.rows for note in row.notes]
    if any(row.memory_of == "process" for row in results.rows):
        notes.append("GiB: the most resident memory of the process, libraries included")
    partial = [
        f"{row.name}: {measure} on {one.n} of {len(results.scenes)} scenes, the others could not be measured"
        for row in results.rows
        for measure in results.measures
        if (one := _interval(row, measure)) and one.n < len(results.scenes)
    ]
    tried = dict.fromkeys(name for row in results.rows for name in row.evaluation.scores)
    nowhere = [
        f"{name}: could not be measured on any scene"
        for name in tried
        if name not in results.measures and name != DISTANCE  # most scenes have no true next one
    ]
    return notes + partial + nowhere


def _compared(name: str, measure: str, one: Comparison) -> list[str]:
    less = one.difference
    ends = f"{less.low:+.3f} to {less.high:+.3f}"
    return [name, measure, f"{less.mean:+.3f}", ends, f"{less.p:.2g}", f"{one.higher}, {one.lower}"]


def _interval(row: Row, measure: str) -> Interval | None:
    return row.evaluation.interval(measure) if measure in row.evaluation.scores else None


def _mean(one: Interval) -> str:
    return f"{one.mean:.3f}" if one.n else UNKNOWN


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *([text.replace("|", "\\|") for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _csv(lines: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
