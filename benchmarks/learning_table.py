"""The table of what algorithms, rules and noise reach on the embedded world, from sweeps that have run.

``rlnsp sweep --config algorithms`` and ``--config noise``, then
``python -m benchmarks.learning_table runs/sweep-algorithms runs/sweep-noise``: into docs/algorithms.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ablation_table import fill
from rlnsp import config
from rlnsp.settings import ConfigError, RunConfig

ROOT = Path(__file__).parents[1]
MARKS = "<!-- learning -->", "<!-- /learning -->"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the table and its numbers; 1 if an algorithm of the first sweep does not rise at every seed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning_table", description=__doc__)
    parser.add_argument("algorithms", type=Path, metavar="SWEEP_FOLDER", help="where every cell should learn")
    parser.add_argument(
        "others", type=Path, nargs="*", metavar="SWEEP_FOLDER", help="whose rows are added, however they went"
    )
    args = parser.parse_args(argv)
    sweeps = {folder: read(folder) for folder in (args.algorithms, *args.others)}
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
    taught = tables[args.algorithms]
    flat = [f"{one['cell']}, seed {seed}" for one in taught for seed, low in one["lows"].items() if low <= 0]
    for name in flat:
        print(f"not above its start by more than chance: {name}")
    return 1 if flat else 0


def read(sweep: Path) -> dict[str, Any]:
    """The sweep's summary.

    Raises:
        ConfigError: it is no sweep's, or not done.
    """
    path = sweep / "summary.json"
    if not (sweep / "sweep.yaml").is_file() or not path.is_file():
        raise ConfigError(f"{sweep}: not the folder of a sweep that has run; rlnsp sweep makes one")
    summary = json.loads(path.read_text(encoding="utf-8"))
    if summary["status"] != "done":
        raise ConfigError(f"{sweep}: is not done; run the sweep's command again to go on with it")
    return summary


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


def environment(sweep: Path) -> dict[str, Any]:
    """On what the sweep's first run was made."""
    first = min(sweep.glob("runs/*/environment.json"))
    return json.loads(first.read_text(encoding="utf-8")) | {"command": None}


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
    said = "\n".join(f"- {line}" for summary in sweeps for line in summary["conclusions"])
    how = f"{rows[0]['iterations']} iterations, seeds {', '.join(map(str, sweeps[0]['seeds']))}."
    return "\n".join([*lines, "", how, "", said])


if __name__ == "__main__":
    raise SystemExit(main())
