"""How the cost of an iteration grows with the group, the steps and the tokens.

``python -m benchmarks.growth``: the config ``world`` with one size changed at a time.  Writes a table into
docs/speed.md, and a figure.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.calls import Iteration, Recorder
from benchmarks.memory import peak_bytes
from benchmarks.pages import fill
from benchmarks.shapes import DRAWN, Setting, of_run
from benchmarks.speed import FOLDER, PAGE, ROOT, machine, size
from rlnsp import config
from rlnsp.rundir import environment

MARKS = "<!-- growth -->", "<!-- /growth -->"
FIGURE = Path("docs") / "images" / "growth.svg"
BASE = ("trainer.scenes_per_iteration=2", "trainer.group_size=8", "trainer.micro_batch_size=16")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A size that is changed while the others stay."""

    name: str
    overrides: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """By size."""


AXES = [
    Axis(name="group size", overrides={n: [f"trainer.group_size={n}"] for n in (4, 8, 16, 32)}),
    Axis(name="steps", overrides={n: [f"sampler.num_steps={n}"] for n in (4, 8, 16, 32)}),
    Axis(
        name="tokens",
        overrides={
            height * width * 3 // 256: [f"policy.config.height={height}", f"policy.config.width={width}"]
            for height, width in ((64, 64), (64, 128), (128, 128), (128, 256))
        },
    ),
]
"""A token is 16 x 16 pixels of one of three latent frames."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the table, the figure and the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="iterations that each median is of (3)")
    args = parser.parse_args(argv)
    torch.set_flush_denormal(True)
    found = sweep(args.rounds, lambda overrides: of_run(config.load("world", overrides, [DRAWN])))
    here = {key: value for key, value in environment().items() if key != "command"}
    figure = "![Seconds of an iteration over each size](images/growth.svg)"
    text = f"{markdown(found)}\n\n{figure}\n\nMachine: {machine(here)}."
    Console().print(text, markup=False, soft_wrap=True)
    fill(ROOT / PAGE, text, MARKS)
    draw(found, ROOT / FIGURE)
    content = {"base": BASE, "axes": found, "environment": here}
    path = ROOT / FOLDER / "growth.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
    return 0


def sweep(rounds: int, make: Callable[[Sequence[str]], Setting]) -> dict[str, list[dict[str, Any]]]:
    """Of each axis, the figures at each of its sizes."""
    return {
        axis.name: [
            {"size": number, **measure(make([*BASE, *own]), rounds)} for number, own in axis.overrides.items()
        ]
        for axis in AXES
    }


def measure(case: Setting, rounds: int) -> dict[str, float]:
    """Median seconds of the rollout and of the optimiser's part of an iteration, and its peak memory."""
    iterate = Iteration(case, Recorder(case.policy))
    iterate()
    phases = []
    for _ in range(rounds):
        iterate()
        phases.append(iterate.metrics["seconds"])
    seconds = {
        f"{name}_s": statistics.median(one[name] for one in phases) for name in ("rollout", "optimise")
    }
    return {**seconds, "peak_bytes": peak_bytes(iterate)}


def markdown(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The table."""
    lines = ["| | rollout | optimiser's part | peak memory |", "|---|---|---|---|"]
    for name, points in found.items():
        lines += [
            f"| {name} {one['size']} | {one['rollout_s']:.2f} s | {one['optimise_s']:.2f} s | "
            f"{size(one['peak_bytes'])} |"
            for one in points
        ]
    return "\n".join(lines)


def draw(found: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """A panel an axis: seconds of both parts over the size, both logarithmic, and a line of slope 1."""
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True)
    for panel, (name, points) in zip(panels, found.items(), strict=True):
        sizes = [one["size"] for one in points]
        for part, label in (("rollout_s", "rollout"), ("optimise_s", "optimiser's part")):
            panel.plot(sizes, [one[part] for one in points], marker="o", label=label)
        start = points[0]["rollout_s"]
        panel.plot(sizes, [start * one / sizes[0] for one in sizes], ":", color="grey", label="in proportion")
        panel.set_xscale("log", base=2)
        panel.set_yscale("log", base=2)
        panel.yaxis.set_major_formatter("{x:g}")
        panel.set_xticks(sizes, [str(one) for one in sizes])
        panel.set_xlabel(name)
    panels[0].set_ylabel("seconds an iteration")
    panels[0].legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "growth"}):  # the same file for the same figures
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    raise SystemExit(main())
