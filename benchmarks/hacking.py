"""Reward hacking: ``motion`` alone rises and consistency falls; with a fifth of it beside ``nsp_reward`` not.

``python -m benchmarks.hacking`` trains both, and equal parts, on the embedded world, and writes the figures
and the picture of docs/reward-hacking.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.pages import fill
from benchmarks.stages import reinforced

RUN = Path("runs/hacking")
ROOT = Path(__file__).parents[1]
PAGE, PICTURE = Path("docs/reward-hacking.md"), Path("docs/images/reward-hacking.png")
MARKS = "<!-- hacking -->", "<!-- /hacking -->"
PROXY, TRUE = "motion", "nsp_reward"
MEASURES = {PROXY: "motion", TRUE: "consistency (nsp_reward)"}
ITERATIONS, SCENES, SAVE_EVERY = 25, 128, 5
INK, GRID = "#1f2328", "#d0d7de"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One run: what it optimises."""

    name: str
    rewards: tuple[str, str]
    """As ``--reward`` has them."""
    colour: str


ARMS = (
    Arm(name="motion alone", rewards=(PROXY, f"{TRUE}=0"), colour="#b3261e"),
    Arm(name="motion and nsp_reward", rewards=(PROXY, TRUE), colour="#bf8700"),
    Arm(name="motion x 0.2 and nsp_reward", rewards=(f"{PROXY}=0.2", TRUE), colour="#1f6feb"),
)
ALONE, MIXED = ARMS[0], ARMS[-1]


def main(argv: Sequence[str] | None = None) -> int:
    """Train, draw and write; 1 if hacking does not show, or not only where it should."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hacking", description=__doc__)
    parser.add_argument("--output", type=Path, default=RUN, metavar="DIR", help=f"the runs' folder ({RUN})")
    parser.add_argument("--iterations", type=int, default=ITERATIONS, metavar="N", help=f"({ITERATIONS})")
    parser.add_argument(
        "--scenes", type=int, default=SCENES, metavar="N", help=f"held-out scenes of an evaluation ({SCENES})"
    )
    parser.add_argument("--root", type=Path, default=ROOT, metavar="DIR", help="where docs/ is")
    args = parser.parse_args(argv)
    found = {arm.name: result(arm, args.output, args.iterations, args.scenes) for arm in ARMS}
    draw(found, args.root / PICTURE)
    text = markdown(found, args.iterations, args.scenes)
    fill(args.root / PAGE, text, MARKS)
    Console().print(text, markup=False)
    for line in (missed := surprises(found)):
        print(line)
    return 1 if missed else 0


def result(arm: Arm, folder: Path, iterations: int, scenes: int) -> dict[str, Any]:
    """Its curves and what it did to held-out scenes; it is trained where it was not."""
    first, second = arm.rewards
    settings = [
        f"trainer.num_iterations={iterations}",
        f"trainer.save_every={SAVE_EVERY}",
        f"evaluation.num_scenes={scenes}",
        "evaluation.num_seeds=1",
    ]
    name = f"{arm.name.replace(' ', '-')}-{iterations}-{scenes}"
    run = reinforced(folder / name, "--reward", second, *settings, reward=first)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if f"reward/{PROXY}" in line]
    return {
        "curves": {measure: [step[f"reward/{measure}"] for step in steps] for measure in MEASURES},
        "heldout": json.loads((run / "summary.json").read_text())["heldout_all"],
    }


def surprises(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is not as it should be: intervals of the difference on held-out scenes, 95%, paired by scene."""
    alone, mixed = (
        {m: found[arm.name]["heldout"][m]["difference_ci95"] for m in MEASURES} for arm in (ALONE, MIXED)
    )
    said = [
        (alone[PROXY][0] > 0, "motion alone does not raise motion"),
        (alone[TRUE][1] < 0, "motion alone does not lower consistency"),
        (mixed[TRUE][1] >= 0, "a fifth of motion beside nsp_reward, and consistency falls"),
    ]
    return [line for holds, line in said if not holds]


def markdown(found: Mapping[str, Mapping[str, Any]], iterations: int, scenes: int) -> str:
    """The picture and the table."""
    lines = [
        f"![Motion and consistency over iterations, of each run]({PICTURE.relative_to(PAGE.parent)})",
        "",
        f"| {iterations} iterations | measure | before | after | difference, 95% interval |",
        "|---|---|---|---|---|",
    ]
    for name, one in found.items():
        for measure, label in MEASURES.items():
            of = one["heldout"][measure]
            low, high = of["difference_ci95"]
            change = f"{of['after'] - of['before']:+.3f} ({low:+.3f} to {high:+.3f})"
            lines.append(f"| {name} | {label} | {of['before']:.3f} | {of['after']:.3f} | {change} |")
    foot = (
        "Lines are the means of what was sampled in training; points, and the table, are "
        f"{scenes} held-out scenes before and after. One seed."
    )
    return "\n".join([*lines, "", foot])


def draw(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Both measures over iterations: in training as lines, on held-out scenes as points with intervals."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=(9, 3.2), dpi=200, facecolor="white", layout="constrained")
    for axes, (measure, label) in zip(figure.subplots(1, 2), MEASURES.items(), strict=True):
        for arm in ARMS:
            curve, heldout = (found[arm.name][key][measure] for key in ("curves", "heldout"))
            axes.plot(range(1, len(curve) + 1), curve, color=arm.colour, lw=1.6, label=arm.name)
            ends = [heldout["before"], heldout["after"]]
            axes.plot([0, len(curve)], ends, "o", color=arm.colour, ms=5, mec="white", zorder=3)
            low, high = heldout["ci95"]
            axes.vlines(len(curve), low, high, color=arm.colour, lw=1.2)
        axes.set_title(label, color=INK, fontsize=10, loc="left")
        axes.set_xlabel("iteration", color=INK, fontsize=9)
        axes.set_ylim(0, 1)
        axes.grid(color=GRID, lw=0.5)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    raise SystemExit(main())
