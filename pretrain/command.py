"""The commands ``rlnsp pretrain`` and ``rlnsp sft``; importing this brings neither torch nor the stages."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rlnsp import config
from rlnsp.interruption import Interrupted, Interruption

if TYPE_CHECKING:
    from rlnsp.distributed import Ranks
    from rlnsp.plan.stages import Asked, Devices, StagePlan


class PretrainCommand:
    """``rlnsp pretrain``."""

    help = "make a policy from data: comprehension, VAE, text-to-video (stage 1)"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare its arguments."""
        parser.epilog = "example:\n  rlnsp pretrain --config world --output runs/pretrain"
        _add(parser, Path("runs/pretrain"))

    def run(self, args: argparse.Namespace) -> int:
        """Run the stages that are not done yet."""
        from pretrain import stages

        settings = config.load_typed(stages.PretrainConfig, args.config, _overrides(args), folder="pretrain")
        if args.dry_run:
            sys.stdout.write(config.to_yaml(settings))
            return 0
        work = partial(stages.pretrain, settings, args.output)
        return _run(work, "pretrain", args, settings.rank_timeout_s)

    def plan(self, asked: Asked, devices: Devices) -> Sequence[StagePlan]:
        """For ``rlnsp plan --stage pretrain``."""
        from pretrain.plan.planning import of_pretrain

        return of_pretrain(asked, devices)


class SFTCommand:
    """``rlnsp sft``."""

    help = "teach a policy next-scene pairs (stage 2)"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare its arguments."""
        parser.epilog = "example:\n  rlnsp sft --config world --policy runs/pretrain/policy --output runs/sft"
        _add(parser, Path("runs/sft"))
        parser.add_argument("--policy", default="", metavar="FOLDER", help="the policy folder to start from")

    def run(self, args: argparse.Namespace) -> int:
        """Fine-tune, unless it is done already."""
        from pretrain import stages

        settings = config.load_typed(stages.SFTConfig, args.config, _overrides(args), folder="sft")
        if args.dry_run:
            sys.stdout.write(config.to_yaml(settings))
            return 0
        start = stages.check_start(args.policy)
        work = partial(stages.sft, settings, start, args.output)
        return _run(work, "sft", args, settings.rank_timeout_s, "--policy", args.policy)

    def plan(self, asked: Asked, devices: Devices) -> Sequence[StagePlan]:
        """For ``rlnsp plan --stage sft``."""
        from pretrain.plan.planning import of_sft

        return of_sft(asked, devices)


def _add(parser: argparse.ArgumentParser, output: Path) -> None:
    parser.add_argument(
        "--config", default="world", metavar="NAME_OR_PATH", help="a shipped config, or a YAML file"
    )
    parser.add_argument(
        "--output", type=Path, default=output, metavar="DIR", help=f"the run folder ({output})"
    )
    parser.add_argument(
        "--precompute",
        action="store_true",
        help="make shards of latents and conditions first, and train from them (data.clips=precomputed)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the whole config, checked, and stop")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings that win over the config's")


def _overrides(args: argparse.Namespace) -> list[str]:
    return ["data.clips=precomputed", *args.overrides] if args.precompute else args.overrides


def _run(
    work: Callable[[Ranks], Path], command: str, args: argparse.Namespace, timeout_s: float, *more: str
) -> int:
    from rlnsp import distributed
    from rlnsp.optimisation import TrainingFailed

    def run(ranks: Ranks) -> int:
        try:
            with Interruption() as interruption:
                ranks.held = interruption.held
                policy = work(ranks)
        except Interrupted as error:
            ranks.leave("interrupted", error.exit_code)
            _tell_how_to_go_on(ranks, command, args, more)
            raise
        except distributed.RankEnded as error:
            if error.exit_code <= 128:
                raise
            _tell_how_to_go_on(ranks, command, args, more)
            return error.exit_code
        except (FloatingPointError, TrainingFailed) as error:
            said = ranks.leave(error, exit_code=1)
            if ranks.main or not said:
                sys.stderr.write(f"rlnsp: error: {error}\n")
            return 1
        if ranks.main:
            sys.stdout.write(f"policy: {policy}\n")
        return 0

    return distributed.together(run, timeout_s)


def _tell_how_to_go_on(ranks: Ranks, command: str, args: argparse.Namespace, more: Sequence[str]) -> None:
    words = ["rlnsp", command, "--config", args.config, "--output", str(args.output), *more]
    if ranks.main:
        again = shlex.join([*words, *_overrides(args)])
        sys.stderr.write(f"interrupted and saved; go on by: {again}\n")


PRETRAIN = PretrainCommand()
SFT = SFTCommand()
