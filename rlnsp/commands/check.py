"""``rlnsp check``: prove a set-up before a run spends anything on it."""

from __future__ import annotations

import argparse
import json
from contextlib import closing

from rlnsp import config
from rlnsp.commands.train import add_config_arguments, add_reward_argument, overrides_of

EXAMPLE = """\
examples:
  rlnsp check --config world
  rlnsp check --config my.yaml --reward my.py:MyReward trainer.precision=bf16 --json

Exit code: 0 nothing is wrong, 1 something is, 2 the config is.  Writes nothing.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``rlnsp check``."""
    parser.epilog = EXAMPLE
    add_config_arguments(parser)
    add_reward_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")


def run(args: argparse.Namespace) -> int:
    """Check and print; the exit code."""
    run_config = config.load(args.config or "world", overrides_of(args), args.reward)

    from rich.console import Console

    from rlnsp import distributed
    from rlnsp.check.examination import examine  # brings torch
    from rlnsp.check.subject import Subject

    ranks = distributed.join(run_config.trainer.rank_timeout_s)
    with closing(ranks), Console(stderr=True, quiet=not ranks.main).status("opening the policy") as status:
        subject = Subject.of(run_config, ranks=ranks)
        report = examine(subject, say=lambda name: status.update(f"checking: {name}"))
    if report.passed and not ranks.main:
        return 0
    if args.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        Console().print(report.as_table(f"rlnsp check {args.config or 'world'}"))
    return 0 if report.passed else 1
