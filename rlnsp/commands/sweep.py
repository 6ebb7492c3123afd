"""``rlnsp sweep``: many runs that differ in what is asked, and one table of what they say."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = """\
examples:
  rlnsp sweep --config rewards --jobs 2
  rlnsp sweep algorithm=grpo,nft sampler.rule=cps,flow_sde seeds=3
  rlnsp sweep --config noise trainer.num_iterations=20 --dry-run
  rlnsp sweep --config noise --output runs/noise --worker

the same command again goes on with what is not done; --worker joins from another terminal or machine
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``rlnsp sweep``."""
    parser.epilog = EXAMPLE
    parser.add_argument(
        "--config", metavar="NAME_OR_PATH", help="a shipped sweep's name, or a YAML file; else words alone"
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="a.b=c[,d]",
        help="several values: an axis; one: a setting of all cells; without a dot, of the sweep: seeds=3",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="the sweep's folder (runs/sweep-NAME, or with the axes' names)",
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="trials at once, a GPU or cores each (1)"
    )
    parser.add_argument("--worker", action="store_true", help="take a share of a sweep that was begun")
    parser.add_argument("--dry-run", action="store_true", help="print the cells and an estimate of the time")


def run(args: argparse.Namespace) -> int:
    """Run, go on with, or join a sweep; the exit code."""
    from rlnsp.sweep import inline
    from rlnsp.sweep.plan import Plan
    from rlnsp.sweep.run import Sweep  # brings torch and Optuna

    plan = Plan(inline.load(args.config, args.words))
    plan.check()
    name = Path(args.config).stem if args.config else inline.name(plan.sweep)
    folder = args.output or Path("runs") / f"sweep-{name}"
    sweep = Sweep(plan, folder, say=lambda line: print(line, flush=True))
    if args.dry_run:
        print("\n".join(sweep.estimate(args.jobs)))
        return 0
    return sweep.work(args.jobs) if args.worker else sweep.run(args.jobs)
