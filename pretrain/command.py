"""The commands ``rlnsp pretrain`` and ``rlnsp sft``; importing this brings neither torch nor the stages."""

import argparse
from pathlib import Path

from rlnsp import config


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

        settings = config.load_typed(stages.PretrainConfig, args.config, args.overrides, folder="pretrain")
        if args.dry_run:
            print(config.to_yaml(settings), end="")
            return 0
        stages.CONSOLE.print(f"policy: {stages.pretrain(settings, args.output)}")
        return 0


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

        settings = config.load_typed(stages.SFTConfig, args.config, args.overrides, folder="sft")
        if args.dry_run:
            print(config.to_yaml(settings), end="")
            return 0
        policy = stages.sft(settings, stages.check_start(args.policy), args.output)
        stages.CONSOLE.print(f"policy: {policy}")
        return 0


def _add(parser: argparse.ArgumentParser, output: Path) -> None:
    parser.add_argument(
        "--config", default="world", metavar="NAME_OR_PATH", help="a shipped config, or a YAML file"
    )
    parser.add_argument(
        "--output", type=Path, default=output, metavar="DIR", help=f"the run folder ({output})"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the whole config, checked, and stop")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings that win over the config's")


PRETRAIN = PretrainCommand()
SFT = SFTCommand()
