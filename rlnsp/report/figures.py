"""Line charts as SVG that takes its colours from the page, so that one drawing serves light and dark."""

import hashlib
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # without pyplot: no display, no global state
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 4.4, 2.3
"""Inches; at the narrowest, 390 pixels, an inch is 80 of them."""
MOST_POINTS = 300
"""Of a curve; a longer one is drawn as means of equal stretches."""
NUM_COLOURS = 6
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)))
"""Of the first ``NUM_COLOURS`` runs, the next, and the rest; colour alone does not tell runs apart."""
_INK, _GRID, _SERIES = "#000001", "#000002", "#0000a{}"
"""Stand-ins that ``_page_colours`` replaces; no other colour is drawn."""
_STEPS = (1, 2, 2.5, 5, 10)
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.formatter.limits": (-3, 4),
}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One run's line in a chart."""

    number: int
    """Of the run: its colour and dashes."""
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = field(default_factory=list)
    """The ends of each point's interval, or nothing."""
    high: Sequence[float] = field(default_factory=list)
    as_bars: bool = False
    """Draw points with bars in place of a line with a band."""
    behind: Sequence[float] = field(default_factory=list)
    """What the line is an average of; drawn faintly."""


def chart(curves: Sequence[Curve], label: str) -> str:
    """The curves over iterations, as an ``<svg>`` element that says ``label`` to a screen reader."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": label}):
        figure = Figure(figsize=(WIDTH, HEIGHT))
        axes = figure.add_axes((0.13, 0.19, 0.84, 0.72))
        figure.patch.set_alpha(0)
        axes.patch.set_alpha(0)
        for curve in curves:
            _draw(axes, curve)
        if axes.dataLim.y0 >= 0:
            low, high = axes.get_ylim()  # of a share or a norm: what is under 0 cannot be
            axes.set_ylim(max(low, -0.03 * high), high)
        axes.grid(color=_GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_GRID)
        axes.tick_params(colors=_INK, length=0)
        axes.yaxis.get_offset_text().set_color(_INK)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=_STEPS))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
        axes.set_xlabel("iteration", color=_INK, labelpad=2)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(drawn.getvalue(), label)


def thinned(values: Sequence[float]) -> list[float]:
    """Means of consecutive stretches, at most ``MOST_POINTS`` of them and equally long but for one."""
    return [float(part.mean()) for part in np.array_split(np.asarray(values, float), _parts(len(values)))]


def moving_average(
    values: Sequence[float], errors: Sequence[float], window: int
) -> tuple[list[float], list[float]]:
    """Means over a centred window, cut short at the ends, and their standard errors.

    The error of a mean of k independent values is the root of the sum of their squared errors, over k.
    """
    means, spreads = [], []
    for i in range(len(values)):
        part = slice(max(0, i - window // 2), i + window // 2 + 1)
        count = len(values[part])
        means.append(sum(values[part]) / count)
        spreads.append(sum(error**2 for error in errors[part]) ** 0.5 / count)
    return means, spreads


def _parts(length: int) -> int:
    return max(1, min(length, MOST_POINTS))


def _draw(axes: Axes, curve: Curve) -> None:
    colour = _SERIES.format(curve.number % NUM_COLOURS)
    dashes = DASHES[min(curve.number // NUM_COLOURS, len(DASHES) - 1)]
    x, y, low, high = (thinned(one) if one else [] for one in (curve.x, curve.y, curve.low, curve.high))
    if curve.as_bars:
        bars = [np.subtract(y, low), np.subtract(high, y)] if low else None
        axes.errorbar(
            x, y, bars, color=colour, linestyle=dashes, marker="o", markersize=3.5, linewidth=1.2, capsize=2.5
        )
        return
    if curve.behind:
        axes.plot(x, thinned(curve.behind), color=colour, linewidth=0.8, alpha=0.35)
    if low:
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    marker = "o" if len(x) == 1 else None
    axes.plot(x, y, color=colour, linestyle=dashes, linewidth=1.5, marker=marker, markersize=3.5)


def _inline(svg: str, label: str) -> str:
    """The drawing without its XML head and without names that another drawing has too."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<g id=\"[^\"]*\">", "<g>", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    size = re.search(r'viewBox="([^"]*)"', svg)
    assert size is not None
    head = f'<svg viewBox="{size[1]}" role="img" aria-label="{html.escape(label)}">'
    svg = head + svg[svg.index(">") + 1 :]
    own = hashlib.sha256(label.encode()).hexdigest()[:8]
    svg = re.sub(r"(id=\"|url\(#|href=\"#)", rf"\g<1>c{own}-", svg)
    svg = svg.replace("xlink:href", "href")
    return re.sub(r"#0000(01|02|a\d)", _page_colour, svg)


def _page_colour(match: re.Match[str]) -> str:
    named = {"01": "var(--ink)", "02": "var(--line)"}
    return named.get(match[1], f"var(--series-{match[1][1:]})")
