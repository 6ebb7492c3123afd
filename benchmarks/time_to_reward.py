"""Minutes of training until the held-out score that the plain Flow-GRPO recipe reaches, for it and for ours.

``python -m benchmarks.time_to_reward`` trains what is not there, goes on where it was stopped, and writes
docs/benchmarks/time-to-reward.md and .json.  Minutes are those of iterations: evaluations and checkpoints are
left out for all alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks.calls import Iteration, Recorder
from benchmarks.memory import peak_bytes
from benchmarks.pages import fill
from benchmarks.recipes import ARMS, PLAIN, PRESET, REWARD, TRICKS, Arm
from benchmarks.shapes import of_run
from benchmarks.speed import machine, size
from benchmarks.stages import key, reinforced
from policies.unified import files
from rlnsp import config, evaluations
from rlnsp.atomic import written_whole
from rlnsp.rundir import environment

ROOT = Path(__file__).parents[1]
PAGE = Path("docs") / "benchmarks" / "time-to-reward.md"
RUN = Path("runs/time-to-reward")
MARKS = "<!-- time to reward -->", "<!-- /time to reward -->"
SEEDS = (0, 1, 2)
TIMES_SOONER = 5


@dataclass(frozen=True, kw_only=True)
class Point:
    """One held-out evaluation of a run."""

    iteration: int
    minutes: float
    """Of training before it."""
    score: float


def main(argv: Sequence[str] | None = None) -> int:
    """Train, gather and write; 1 if the preset is not as much sooner at every seed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.time_to_reward", description=__doc__)
    parser.add_argument("--output", type=Path, default=RUN, metavar="DIR", help=f"the runs' folder ({RUN})")
    parser.add_argument(
        "--learn",
        action="append",
        default=[],
        metavar="TRICK",
        choices=[trick.name for trick in TRICKS],
        help="train this trick alone, too, for the plain recipe's iterations at the first seed",
    )
    args = parser.parse_args(argv)
    torch.set_flush_denormal(True)
    configs = [config.find_config(name) for name in ("flow_grpo", "world")]
    folder = args.output / key(files.policy_folder("world"), *configs)
    curves = {arm.name: [learn(arm, seed, folder) for seed in SEEDS] for arm in (PLAIN, PRESET)}
    curves |= {name: [learn(ARMS[name], SEEDS[0], folder)] for name in args.learn}
    costs = {arm.name: cost(arm, folder, curves) for arm in ARMS.values()}
    rows = compare(curves)
    here = {name: value for name, value in environment().items() if name != "command"}
    text = markdown(rows, curves, costs) + f"\n\nMachine: {machine(here)}."
    Console().print(text, markup=False, soft_wrap=True)
    fill(ROOT / PAGE, text, MARKS)
    content = {
        "reward": REWARD,
        "seeds": SEEDS,
        "arms": {name: {"config": arm.config, "overrides": arm.overrides} for name, arm in ARMS.items()},
        "curves": {name: [[asdict(point) for point in run] for run in runs] for name, runs in curves.items()},
        "costs": costs,
        "comparison": rows,
        "environment": here,
    }
    (ROOT / PAGE).with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")
    return 0 if all(row["holds"] for row in rows) else 1


def learn(arm: Arm, seed: int, folder: Path) -> list[Point]:
    """The curve of a run, which is trained where it was not."""
    where = folder / arm.folder / f"seed{seed}"
    return curve(reinforced(where, "--config", arm.config, f"--seed={seed}", *arm.overrides, reward=REWARD))


def curve(run: Path) -> list[Point]:
    """Every evaluation of a run folder, with the minutes of the iterations before it."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    each = [sum(line["seconds"].values()) / 60 for line in lines if "seconds" in line]
    minutes = [0.0, *accumulate(each)]
    return [
        Point(
            iteration=kept.iteration,
            minutes=minutes[kept.iteration],
            score=float(np.nanmean(kept.evaluation.scores[REWARD])),
        )
        for kept in evaluations.read(run)
    ]


def best(points: Sequence[Point]) -> Point:
    """The first of the highest."""
    return max(points, key=lambda point: (point.score, -point.iteration))


def reached(points: Sequence[Point], score: float) -> Point | None:
    """The first evaluation after training began from which on each is at least ``score``; None: none is."""
    found = None
    for point in reversed(points):
        if point.score < score or not point.iteration:
            break
        found = point
    return found


def compare(curves: Mapping[str, Sequence[Sequence[Point]]]) -> list[dict[str, Any]]:
    """Of each seed, how much sooner the preset has the best score of the plain recipe's whole budget."""
    rows = []
    for seed, plain, ours in zip(SEEDS, curves[PLAIN.name], curves[PRESET.name], strict=True):
        top = best(plain)
        there = reached(ours, top.score)
        # A recipe that is best where it starts takes its whole budget to show it.
        took = top.minutes if top.iteration else plain[-1].minutes
        sooner = took / there.minutes if there else None
        rows.append(
            {
                "seed": seed,
                "plain_start": plain[0].score,
                "plain_best": top.score,
                "plain_rose": top.iteration > 0,
                "plain_minutes": took,
                "plain_budget_minutes": plain[-1].minutes,
                "ours_start": ours[0].score,
                "ours_minutes": there and there.minutes,
                "ours_end": ours[-1].score,
                "times_sooner": sooner,
                "holds": sooner is not None and sooner >= TIMES_SOONER,
            }
        )
    return rows


def cost(arm: Arm, folder: Path, curves: Mapping[str, Sequence[Sequence[Point]]]) -> dict[str, Any]:
    """Seconds, forwards and backwards of an iteration, and its peak memory; measured where it was not.

    Of what was trained the seconds are those of its runs, and an iteration more is spent on its memory; of a
    trick they are those of one iteration of the shipped policy, and its memory is None.
    """
    kept = folder / arm.folder / "cost.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    runs = curves.get(arm.name)
    with Console(stderr=True).status(f"{arm.name}: measuring an iteration"):
        case = of_run(arm.load())
        recorder = Recorder(case.policy)
        iterate = Iteration(case, recorder)
        peak = peak_bytes(iterate) if runs else iterate()
    ends = [run[-1] for run in runs or []]
    trained = [end.minutes * 60 / end.iteration for end in ends]
    found = {
        "seconds": statistics.mean(trained) if trained else sum(iterate.metrics["seconds"].values()),
        "forwards": recorder.forwards(),
        "backwards": sum(call.size for call in recorder.calls if call.backward),
        "peak_bytes": peak,
    }
    kept.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(kept) as aside:
        aside.write_text(json.dumps(found) + "\n")
    return found


def markdown(
    rows: Sequence[Mapping[str, Any]],
    curves: Mapping[str, Sequence[Sequence[Point]]],
    costs: Mapping[str, Mapping[str, Any]],
) -> str:
    """The tables: by seed, by trick, and every evaluation."""
    return "\n\n".join([_by_seed(rows), _by_trick(curves, costs), _every_evaluation(curves)])


def _by_seed(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| seed | plain: start | its best | after | `world`: start | that score after | end | times sooner |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        after = f"{row['plain_minutes']:.1f} min"
        if not row["plain_rose"]:
            after = f"its start; budget {after}"
        there = "not reached" if row["ours_minutes"] is None else f"{row['ours_minutes']:.1f} min"
        sooner = "" if row["times_sooner"] is None else f"**{row['times_sooner']:.1f}**"
        lines.append(
            f"| {row['seed']} | {row['plain_start']:.3f} | {row['plain_best']:.3f} | {after} | "
            f"{row['ours_start']:.3f} | {there} | {row['ours_end']:.3f} | {sooner} |"
        )
    flat = [row["seed"] for row in rows if not row["plain_rose"]]
    if flat:
        lines += [
            "",
            f"The plain recipe never rose above its start at seeds {', '.join(map(str, flat))}: its best "
            "score there is its start's, and what counts as its time is its whole budget.",
        ]
    return "\n".join(lines)


def _by_trick(curves: Mapping[str, Sequence[Sequence[Point]]], costs: Mapping[str, Mapping[str, Any]]) -> str:
    plain = costs[PLAIN.name]
    target = statistics.mean(best(run).score for run in curves[PLAIN.name])
    lines = [
        "| recipe | forwards, backwards | seconds an iteration | of plain's | peak memory | "
        f"minutes to {target:.3f} |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in costs.items():
        there = "not trained"
        if name in curves:
            times = [reached(run, target) for run in curves[name]]
            there = ", ".join("not reached" if one is None else f"{one.minutes:.1f}" for one in times)
        peak = "" if found["peak_bytes"] is None else size(found["peak_bytes"])
        lines.append(
            f"| {ARMS[name].what} | {found['forwards']}, {found['backwards']} | {found['seconds']:.1f} | "
            f"{found['seconds'] / plain['seconds']:.2f} | {peak} | {there} |"
        )
    return "\n".join(lines)


def _every_evaluation(curves: Mapping[str, Sequence[Sequence[Point]]]) -> str:
    lines = ["| recipe, seed | held-out score after minutes of training |", "|---|---|"]
    for name, runs in curves.items():
        for seed, run in zip(SEEDS, runs, strict=False):
            each = ", ".join(f"{point.score:.3f} ({point.minutes:.1f})" for point in run)
            lines.append(f"| {name}, {seed} | {each} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
