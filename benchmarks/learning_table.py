"""What algorithms reach on the embedded world: the sweep ``algorithms``, and its table in docs/algorithms.md.

python -m benchmarks.learning_table --jobs 2    # runs what is not done of the sweep, in runs/sweep-algorithms
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ablation_table import fill
from rlnsp import cli, config
from rlnsp.settings import RunConfig

ROOT = Path(__file__).parents[1]
MARKS = "<!-- learning -->", "<!-- /learning -->"
SWEEP = Path("runs/sweep-algorithms")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the table and its numbers; 1 if an algorithm does not raise the metric at every seed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sweep", type=Path, nargs="?", default=SWEEP, metavar="SWEEP_FOLDER", help=f"({SWEEP})"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="of rlnsp sweep (1)")
    args = parser.parse_args(argv)
    summary = read(args.sweep)
    if summary is None:
        words = ["--config", "algorithms", "--output", str(args.sweep), "--jobs", str(args.jobs)]
        if code := cli.main(["sweep", *words]):
            return code
        summary = read(args.sweep)
    assert summary is not None, "a sweep that ends well is done"
    rows = [row(args.sweep, cell, summary["seeds"]) for cell in summary["cells"]]
    text = markdown(rows, summary)
    print(text)
    fill(ROOT / "docs" / "algorithms.md", text, MARKS)
    environment = json.loads(next(args.sweep.glob("runs/*/environment.json")).read_text(encoding="utf-8"))
    content = {"rows": rows, "sweep": summary, "environment": {**environment, "command": None}}
    (ROOT / "docs" / "algorithms.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    flat = [f"{one['cell']}, seed {seed}" for one in rows for seed, low in one["lows"].items() if low <= 0]
    for name in flat:
        print(f"not above its start by more than chance: {name}")
    return 1 if flat else 0


def read(sweep: Path) -> dict[str, Any] | None:
    """The summary of a sweep that is done; None: it is not."""
    path = sweep / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"status": "to do"}
    return summary if summary["status"] == "done" else None


def row(sweep: Path, cell: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """A line: the cell's figures, what it trained with, and how sure each seed's gain is."""
    runs = {seed: sweep / "runs" / f"{cell['folder']}-seed{seed}" for seed in seeds}
    run: RunConfig = config.load_typed(RunConfig, runs[seeds[0]] / "config.yaml")
    ends = {seed: json.loads((path / "summary.json").read_text())["heldout"] for seed, path in runs.items()}
    return {
        "cell": cell["cell"],
        "algorithm": run.algorithm.use,
        "rule": run.sampler.rule,
        "noise": run.sampler.noise_level,
        "iterations": run.trainer.num_iterations,
        "start": cell["before"],
        "end": cell["after_mean"],
        "ends": [cell[f"after_seed{seed}"] for seed in seeds],
        "lows": {seed: one["difference_ci95"][0] for seed, one in ends.items()},
        "minutes": cell["minutes"],
        "trained_fraction": cell["trained_fraction"],
        "forwards": cell["forwards_an_iteration"],
    }


def markdown(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> str:
    """The table, and what the sweep concluded."""
    lines = [
        "| algorithm | rule, noise | start | end: mean | each seed | minutes | trained steps | model calls |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        each = ", ".join(f"{end:.2f}" for end in one["ends"])
        rule = "ode" if one["rule"] == "ode" else f"{one['rule']} {one['noise']:g}"
        lines.append(
            f"| `{one['algorithm']}` | {rule} | {one['start']:.3f} | {one['end']:.3f} | {each} | "
            f"{one['minutes']:.1f} | {one['trained_fraction']:.0%} | {one['forwards']} |"
        )
    said = "\n".join(f"- {line}" for line in summary["conclusions"])
    how = f"{rows[0]['iterations']} iterations, seeds {', '.join(map(str, summary['seeds']))}."
    return "\n".join([*lines, "", how, "", said])


if __name__ == "__main__":
    raise SystemExit(main())
