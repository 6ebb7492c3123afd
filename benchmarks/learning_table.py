"""What algorithms, rules and noise reach on the embedded world: two sweeps, one table in docs/algorithms.md.

python -m benchmarks.learning_table --jobs 2    # runs what is not done of both first
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pages import fill
from benchmarks.sweep_tables import environment, finished, parser, read
from rlnsp import config
from rlnsp.settings import RunConfig

ROOT = Path(__file__).parents[1]
MARKS = "<!-- learning -->", "<!-- /learning -->"
SWEEPS = ("algorithms", "noise")
"""Every cell of the first should learn; of the second, some noise is too little or too much."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the table and its numbers; 1 if an algorithm does not raise the metric at every seed."""
    args = parser("python -m benchmarks.learning_table", __doc__).parse_args(argv)
    sweeps = {sweep: read(sweep) for sweep in (finished(name, args.output, args.jobs) for name in SWEEPS)}
    tables = {
        folder: [row(folder, cell, summary["seeds"]) for cell in summary["cells"]]
        for folder, summary in sweeps.items()
    }
    text = markdown([one for rows in tables.values() for one in rows], list(sweeps.values()))
    print(text)
    fill(ROOT / "docs" / "algorithms.md", text, MARKS)
    content = [
        {"rows": rows, "sweep": sweeps[folder], "environment": environment(folder)}
        for folder, rows in tables.items()
    ]
    (ROOT / "docs" / "algorithms.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    taught = next(iter(tables.values()))
    flat = [f"{one['cell']}, seed {seed}" for one in taught for seed, low in one["lows"].items() if low <= 0]
    for name in flat:
        print(f"not above its start by more than chance: {name}")
    return 1 if flat else 0


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


def markdown(rows: Sequence[Mapping[str, Any]], sweeps: Sequence[Mapping[str, Any]]) -> str:
    """The table, and what the sweeps concluded."""
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
    said = "\n".join(dict.fromkeys(f"- {line}" for summary in sweeps for line in summary["conclusions"]))
    how = f"{rows[0]['iterations']} iterations, seeds {', '.join(map(str, sweeps[0]['seeds']))}."
    return "\n".join([*lines, "", how, "", said])


if __name__ == "__main__":
    raise SystemExit(main())
