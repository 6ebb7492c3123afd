"""The report's page, from run folders to one HTML file."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rlnsp.atomic import written_whole
from rlnsp.evaluate import Interval
from rlnsp.report import comparison, differences, runs
from rlnsp.report.curves import curves
from rlnsp.report.gallery import gallery
from rlnsp.report.runs import ReportedRun

TEMPLATE = Path(__file__).parent / "template"


def write_report(paths: Sequence[Path], output: Path) -> Path:
    """Write the report of one run, or of several side by side, to ``output``, whole or not at all.

    Returns:
        ``output``.

    Raises:
        ConfigError: a path is no run folder, or a file of it cannot be read.
    """
    page = render(runs.load(paths))
    with written_whole(output) as aside:
        aside.write_text(page, encoding="utf-8")
    return output


def render(reported: Sequence[ReportedRun]) -> str:
    """The page, with style, script, drawings and clips inside."""
    pictures = gallery(reported)
    first = reported[0]
    return (
        templates()
        .get_template("report.html.j2")
        .render(
            title=first.name if len(reported) == 1 else f"{len(reported)} runs",
            runs=reported,
            rows=comparison.rows(reported),
            unlike=comparison.unlike(reported),
            charts=curves(reported),
            phases={run.name: _seconds_by_phase(run) for run in reported},
            presets={run.name: differences.nearest_preset(run) for run in reported},
            between=differences.between(reported) if len(reported) > 1 else {},
            gallery=pictures,
            measure=first.metric,
            # The page scores and sorts by one number, higher is better.
            sign=1 if first.rewards[first.metric] > 0 else -1,
            **inlined(),
        )
    )


def inlined() -> dict[str, str]:
    """Style and script of a page, and the hash by which its browser knows that the script is ours."""
    script = (TEMPLATE / "report.js").read_text(encoding="utf-8")
    return {
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "style": Markup((TEMPLATE / "report.css").read_text(encoding="utf-8")),
    }


def templates() -> Environment:
    """The pages' templates, which escape what they are given."""
    found = Environment(
        loader=FileSystemLoader(TEMPLATE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"figure": figure, "interval": interval, "reads": reads, "plain": plain}
    return found


def figure(value: float | None, sign: str = "") -> str:
    """A number for a reader: four digits that count, or a dash."""
    if value is None or value != value:
        return "–"
    return f"{value:{sign}.3f}" if 0.001 <= abs(value) < 1000 or value == 0 else f"{value:{sign}.3g}"


def interval(found: Interval | None, sign: str = "") -> str:
    """A mean with the ends of its 95% interval, or a dash."""
    if found is None:
        return "–"
    return f"{figure(found.mean, sign)} [{figure(found.low, sign)}, {figure(found.high, sign)}]"


def reads(change: Interval | None, lower_is_better: bool) -> str:
    """What a difference and its interval allow to say."""
    if change is None:
        return ""
    if change.low <= 0 <= change.high:
        return "unclear"
    return "better" if (change.mean > 0) != lower_is_better else "worse"


def plain(value: Any) -> str:
    """A setting as a user would write it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _seconds_by_phase(run: ReportedRun) -> dict[str, dict[str, float]]:
    """The mean seconds of an iteration by phase, and each phase's share."""
    spent: dict[str, float] = {}
    for line in run.iterations:
        for phase, seconds in line["seconds"].items():
            spent[phase] = spent.get(phase, 0.0) + seconds
    total = sum(spent.values())
    return {
        phase: {"mean": seconds / len(run.iterations), "share": seconds / total if total else 0.0}
        for phase, seconds in spent.items()
    }
