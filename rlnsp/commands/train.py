"""``rlnsp train``: stage 3, from a config to a run folder."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path

from rlnsp import config
from rlnsp.config import ConfigError, RunConfig

EXAMPLE = """\
examples:
  rlnsp train --reward nsp_reward
  rlnsp train --reward nsp_reward --reward my.py:Smoothness=0.2 trainer.num_iterations=20 --output runs/mine
  rlnsp train --resume runs/mine
  accelerate launch -m rlnsp train --config my.yaml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``rlnsp train``."""
    parser.epilog = EXAMPLE
    add_config_arguments(parser)
    add_reward_argument(parser)
    parser.add_argument("--output", type=Path, metavar="DIR", help="the run folder (runs/ and the time)")
    parser.add_argument(
        "--resume", type=Path, metavar="DIR", help="go on with a run folder, from its last checkpoint"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the whole config, checked, and stop")


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how a command is told its config: --config, --seed and overrides."""
    parser.add_argument(
        "--config", metavar="NAME_OR_PATH", help="a shipped config's name, or a YAML file (world)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="the same as seed=N")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings that win over the config's")


def add_reward_argument(parser: argparse.ArgumentParser) -> None:
    """Declare --reward."""
    parser.add_argument(
        "--reward",
        action="append",
        default=[],
        metavar="NAME[=WEIGHT]",
        help="an installed reward (see rlnsp reward list), package.module:NAME or file.py:NAME; "
        "may be repeated, and replaces the config's rewards",
    )


def overrides_of(args: argparse.Namespace) -> list[str]:
    """The overrides, with --seed as the last."""
    return [*args.overrides, *([] if args.seed is None else [f"seed={args.seed}"])]


def run(args: argparse.Namespace) -> int:
    """Train, or say what would be trained; the exit code."""
    run_config = _resumed(args) if args.resume else _new(args)
    if args.dry_run:
        print(config.to_yaml(run_config), end="")
        return 0
    from rlnsp import trainer  # brings torch

    output = args.resume or args.output or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    return trainer.train(run_config, output, resume=args.resume is not None)


def _new(args: argparse.Namespace) -> RunConfig:
    return config.load(args.config or "world", overrides_of(args), args.reward)


def _resumed(args: argparse.Namespace) -> RunConfig:
    for flag, given in (("--config", args.config), ("--reward", args.reward), ("--output", args.output)):
        if given:
            raise ConfigError(
                f"{flag} does not go with --resume, whose folder has the config; remove one of the two"
            )
    from rlnsp.rundir import RunFolder  # brings torch

    folder = RunFolder(args.resume)
    folder.check_used()
    return config.load(folder.path / "config.yaml", overrides_of(args))
