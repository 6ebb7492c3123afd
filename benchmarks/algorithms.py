"""Every algorithm on the embedded world, from the shipped policy at several seeds, in one table.

``python -m benchmarks.algorithms`` trains what is not there, and writes the table into docs/algorithms.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.ablation_table import fill
from benchmarks.calls import Iteration, Recorder
from benchmarks.shapes import DRAWN, of_run
from benchmarks.stages import key, reinforced
from policies.unified import files
from rlnsp import config
from rlnsp.rundir import environment
from rlnsp.settings import RunConfig

RUN = Path("runs/algorithms")
ROOT = Path(__file__).parents[1]
MARKS = "<!-- learning -->", "<!-- /learning -->"
SEEDS, ITERATIONS = (0, 1, 2), 40


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train; everything else is the config ``world``."""

    algorithm: str
    rule: str = "cps"
    noise: float = 0.7
    settings: Mapping[str, object] = field(default_factory=dict)
    """Overrides that are its own."""

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.algorithm}-{self.rule}-{self.noise:g}"

    @property
    def overrides(self) -> list[str]:
        """For ``rlnsp train``."""
        own = {
            "algorithm.use": self.algorithm,
            "sampler.rule": self.rule,
            "sampler.noise_level": self.noise,
            "trainer.num_iterations": ITERATIONS,
            **self.settings,
        }
        return [f"{name}={json.dumps(value).strip(chr(34))}" for name, value in own.items()]


ARMS = [
    Arm(algorithm="grpo"),
    Arm(algorithm="grpo", rule="flow_sde"),
    Arm(algorithm="grpo", rule="dance_sde", noise=0.5),
    Arm(algorithm="ddpo"),
    Arm(algorithm="grpo_guard"),
    Arm(algorithm="flow_dppo"),
    Arm(algorithm="nft"),
    Arm(algorithm="nft", rule="ode", settings={"sampler.same_noise": False}),
    Arm(algorithm="awm"),
]


def main(argv: Sequence[str] | None = None) -> int:
    """Train, gather and write; 1 if an algorithm does not raise consistency."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.algorithms", description=__doc__)
    parser.add_argument("--output", type=Path, default=RUN, metavar="DIR", help=f"the runs' folder ({RUN})")
    parser.add_argument("--only", default="", help="the arms whose name begins so; the page is not written")
    args = parser.parse_args(argv)
    folder = args.output / key(files.policy_folder("world"), config.find_config("world"))
    arms = [arm for arm in ARMS if arm.name.startswith(args.only)]
    found = [result(arm, folder) for arm in arms]
    text = markdown(found)
    Console().print(text, markup=False)
    if not args.only:
        fill(ROOT / "docs" / "algorithms.md", text, MARKS)
        here = {name: value for name, value in environment().items() if name != "command"}
        content = {"iterations": ITERATIONS, "seeds": SEEDS, "arms": found, "environment": here}
        (ROOT / "docs" / "algorithms.json").write_text(json.dumps(content, indent=2) + "\n")
    flat = [one["name"] for one in found if min(low for low, _ in one["differences_ci95"]) <= 0]
    for name in flat:
        print(f"does not raise consistency at every seed: {name}")
    return 1 if flat else 0


def result(arm: Arm, folder: Path) -> dict[str, Any]:
    """Its figures, the mean over seeds; it is trained where it was not."""
    runs = [reinforced(folder / arm.name / f"seed{seed}", f"--seed={seed}", *arm.overrides) for seed in SEEDS]
    heldout = [json.loads((run / "summary.json").read_text()) for run in runs]
    measures = [one["heldout"] for one in heldout]
    return {
        "name": arm.name,
        "algorithm": arm.algorithm,
        "rule": arm.rule,
        "noise": arm.noise,
        "start": float(np.mean([one["before"] for one in measures])),
        "end": float(np.mean([one["after"] for one in measures])),
        "ends": [one["after"] for one in measures],
        "differences_ci95": [one["difference_ci95"] for one in measures],
        "minutes": float(np.mean([one["wall_s"] for one in heldout])) / 60,
        **work(config.load("world", arm.overrides, [DRAWN])),
    }


def work(run: RunConfig) -> dict[str, float]:
    """What an iteration does, with all its samples: the share of trained steps, and a sample's forwards."""
    case = of_run(run)
    recorder = Recorder(case.policy)
    Iteration(case, recorder)()
    trained = sum(call.size for call in recorder.calls if call.backward)
    samples = run.trainer.scenes_per_iteration * run.trainer.group_size
    return {
        "trained_fraction": trained / (samples * run.sampler.num_steps),
        "forwards": recorder.forwards(),
    }


def markdown(found: Sequence[Mapping[str, Any]]) -> str:
    """The table."""
    lines = [
        "| algorithm | rule, noise | start | end: mean | each seed | minutes | trained steps | model calls |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        each = ", ".join(f"{end:.2f}" for end in one["ends"])
        rule = "ode" if one["rule"] == "ode" else f"{one['rule']} {one['noise']:g}"
        lines.append(
            f"| `{one['algorithm']}` | {rule} | {one['start']:.3f} | {one['end']:.3f} | {each} | "
            f"{one['minutes']:.1f} | {one['trained_fraction']:.0%} | {one['forwards']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
