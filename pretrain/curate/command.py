"""The command ``rlnsp curate``."""

import argparse
import shlex
import sys
from pathlib import Path

from rlnsp import config
from rlnsp.dataset.hub import place_of
from rlnsp.interruption import Interrupted

EXAMPLE = """\
examples:
  rlnsp curate raw --url http://127.0.0.1:8000/v1 --output nsp
  rlnsp curate shards --url http://gpu1:8000/v1 --url http://gpu2:8000/v1 --llm-url http://gpu3:8000/v1
  rlnsp curate raw/manifest.jsonl --url http://127.0.0.1:8000/v1 pairs=[consecutive] captions=made

VIDEOS is a folder of videos, a manifest, tar shards as WebDataset has them, or a data set of `datasets`, on
a hub as hf://datasets/OWNER/NAME.  Run again, the same command goes on where it was stopped, and asks nothing
twice.
"""


class CurateCommand:
    """``rlnsp curate``."""

    help = "make next-scene pairs from videos: split, caption, write what came before, check"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare its arguments."""
        parser.epilog = EXAMPLE
        parser.add_argument("videos", type=place_of, metavar="VIDEOS", help="what to make pairs of")
        parser.add_argument(
            "--config", default="paper", metavar="NAME_OR_PATH", help="a shipped config, or a YAML file"
        )
        parser.add_argument(
            "--output", type=Path, default=Path("nsp"), metavar="DIR", help="clips and manifest (nsp)"
        )
        parser.add_argument(
            "--url", action="append", default=[], help="of a server with the captioner; may be repeated"
        )
        parser.add_argument("--model", default="", help="its served name (the only one there)")
        parser.add_argument(
            "--llm-url",
            action="append",
            default=[],
            metavar="URL",
            help="of a server with the writer and checker (the captioner's)",
        )
        parser.add_argument("--llm-model", default="", metavar="MODEL", help="its served name")
        parser.add_argument("--json", action="store_true", help="print the yield as JSON in place of a table")
        parser.add_argument(
            "--dry-run", action="store_true", help="print the whole config, checked, and stop"
        )
        parser.add_argument(
            "overrides", nargs="*", metavar="a.b=c", help="settings that win over the config's"
        )

    def run(self, args: argparse.Namespace) -> int:
        """Curate what is left to do; 1 if a server fails, or if nothing is kept."""
        from pretrain.curate.settings import CurateConfig

        settings = config.load_typed(
            CurateConfig, args.config, [*_overrides(args), *args.overrides], folder="curate"
        )
        if args.dry_run:
            sys.stdout.write(config.to_yaml(settings))
            return 0

        import json

        from rich.console import Console

        from pretrain.curate.asking import ServerFailed
        from pretrain.curate.report import show
        from pretrain.curate.work import curate

        console = Console(stderr=args.json)
        try:
            figures = curate(settings, args.videos, args.output, console)
        except (Interrupted, ServerFailed) as error:
            again = f"go on by: {shlex.join(_again(args))}"
            if isinstance(error, ServerFailed):
                sys.stderr.write(f"rlnsp: error: {error}; what is done is kept; {again}\n")
                return 1
            sys.stderr.write(f"interrupted; what is done is kept; {again}\n")
            raise
        if args.json:
            sys.stdout.write(json.dumps(figures, indent=2) + "\n")
        else:
            show(figures, console)
            sys.stdout.write(f"manifest: {args.output / 'manifest.jsonl'}\n")
        if not figures["pairs"]:
            sys.stderr.write(
                f"rlnsp: error: no pair was kept; {args.output / 'dropped.jsonl'} has the reasons\n"
            )
            return 1
        return 0


def _overrides(args: argparse.Namespace) -> list[str]:
    """The flags as settings."""
    found = []
    if args.url:
        found.append(config.override("vlm.base_urls", args.url))
    if args.model:
        found.append(config.override("vlm.model", args.model))
    # Another model may be on the captioner's servers.
    if llm_urls := args.llm_url or (args.url if args.llm_model else []):
        found.append(config.override("llm.base_urls", llm_urls))
    if args.llm_model:
        found.append(config.override("llm.model", args.llm_model))
    return found


def _again(args: argparse.Namespace) -> list[str]:
    words = ["rlnsp", "curate", str(args.videos), "--config", args.config, "--output", str(args.output)]
    for flag in ("url", "llm_url"):
        for url in getattr(args, flag):
            words += [f"--{flag.replace('_', '-')}", url]
    for flag in ("model", "llm_model"):
        if getattr(args, flag):
            words += [f"--{flag.replace('_', '-')}", getattr(args, flag)]
    return [*words, *args.overrides]


CURATE = CurateCommand()
