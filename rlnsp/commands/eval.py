"""``rlnsp eval``: policies on the same held-out scenes from the same noise, in one table."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rlnsp import config
from rlnsp.commands.train import add_config_arguments, overrides_of
from rlnsp.settings import ConfigError, RunConfig, require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlnsp.benchmark.entries import Entry
    from rlnsp.types import Sample, Scene

EXAMPLE = """\
examples:
  rlnsp eval --policy world --policy runs/demo
  rlnsp eval --policy runs/demo --config world evaluation.num_scenes=512 evaluation.num_seeds=3 --json
  rlnsp eval --prompts world --policy sft=world --policy rl=runs/demo --output benchmark
  rlnsp eval --prompts nsp --policy runs/nsp --policy ltx=ltx.yaml measures.checklist.config.openai.model=Qwen
  rlnsp eval --prompts mine.jsonl --policy runs/nsp --clips theirs=theirs.jsonl --copy-context
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``rlnsp eval``."""
    parser.epilog = EXAMPLE
    parser.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="[NAME=]RUN_OR_FOLDER",
        help="a run folder, a policy folder, world, or the YAML of a policy (use and config); may be "
        "repeated, and each is compared to the first",
    )
    parser.add_argument(
        "--clips",
        action="append",
        default=[],
        metavar="NAME=MANIFEST",
        help="clips made elsewhere, a video for each scene's id; may be repeated",
    )
    parser.add_argument(
        "--copy-context",
        action="store_true",
        help="a baseline: the last frame of each preceding scene's clip, standing still",
    )
    parser.add_argument(
        "--prompts",
        metavar="NAME_OR_FILE",
        help="a suite of scenes and measures (world, nsp, or a YAML), or a manifest, which is measured as "
        "nsp is; in place of the config's scenes and rewards, and set by measures.NAME.config.a=b",
    )
    add_config_arguments(parser)
    parser.add_argument("--output", type=Path, metavar="DIR", help="a new folder for the tables as files")
    parser.add_argument(
        "--vbench", action="store_true", help="write every clip, as VBench names them, into DIR/vbench"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print; the exit code."""
    _check(args)
    run_config, by = _measured(args)

    from rich.console import Console

    from rlnsp.benchmark import tables
    from rlnsp.benchmark.results import Results, measure
    from rlnsp.benchmark.suite import scenes_of
    from rlnsp.benchmark.vbench import VBenchFolder
    from rlnsp.benchmark.verdicts import Verdicts
    from rlnsp.scoring import RewardFailed, build_rewards, check_scenes, keep_records

    scenes = scenes_of(run_config, by)
    entries = _entries(args, run_config, scenes)
    rewards = build_rewards(run_config.rewards)
    check_scenes(rewards, scenes)
    results, console = Results(scenes=scenes, rows=[], by=by), Console(stderr=True)
    for entry in entries:
        try:
            with console.status(f"{entry.name}: {len(scenes)} scenes"):
                opened = entry.open()
                if args.output and not results.rows:  # not before there is something to evaluate
                    _write_settings(args.output, run_config)
                    keep_records(rewards, args.output / "rewards")
                place = args.output / "vbench" / _as_folder(entry.name) if args.vbench else None
                seen = VBenchFolder(place).add if place else _nothing
                said = _nothing
                if args.output:
                    said = Verdicts(args.output, entry.name, rewards, run_config.evaluation.seed).add
                row = measure(entry, opened, scenes, rewards, run_config, seen, said)
                del opened  # the weights, before the next are loaded
        except RewardFailed as error:
            print(f"rlnsp: error: {error}", file=sys.stderr)
            return 1
        results.rows.append(row)
        if args.output:
            tables.write(results, args.output)  # an evaluation may take hours: what is done is there
    if args.json:
        print(json.dumps(results.to_json(), indent=2))
    else:
        Console().print(*tables.terminal(results), sep="\n")
    return 0


def _check(args: argparse.Namespace) -> None:
    require(
        bool(args.policy or args.clips),
        "there is nothing to evaluate: give --policy RUN_OR_FOLDER or --clips NAME=MANIFEST",
    )
    require(not args.vbench or args.output, "--vbench needs --output DIR, where the clips go")
    if args.output and args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise ConfigError(f"--output {args.output}: is there already; name a folder that is not")


def _measured(args: argparse.Namespace) -> tuple[RunConfig, str]:
    """The run with the scenes and measures that are asked for, and the column that tells scenes apart."""
    from rlnsp.benchmark import suite  # brings torch

    overrides = overrides_of(args)
    own = [one for one in overrides if one.startswith(suite.OWN)]
    run_config = config.load(args.config or "world", [one for one in overrides if one not in own])
    if args.prompts is None:
        require(not own, f"{own and own[0]!r}: measures are those of --prompts; give it, or set rewards.*")
        return run_config, ""
    given = [one for one in overrides if one.startswith(("rewards.", "data."))]
    require(
        not given,
        f"{given and given[0]!r}: with --prompts its scenes and measures hold; set measures.NAME.*",
    )
    asked = suite.load(args.prompts, own)
    return suite.measured_by(run_config, asked), asked.by


def _entries(args: argparse.Namespace, run_config: RunConfig, scenes: Sequence[Scene]) -> list[Entry]:
    from rlnsp.benchmark.entries import clips_entry, policy_entry, still_entry

    entries = [policy_entry(given, run_config, scenes) for given in args.policy]
    entries += [clips_entry(given, scenes) for given in args.clips]
    entries += [still_entry(scenes)] if args.copy_context else []
    names = [entry.name for entry in entries]
    for name in names:
        flag = "--policy" if names.index(name) < len(args.policy) else "--clips"
        require(names.count(name) == 1, f"{flag} {name}: is given twice; give each a name of its own")
    return entries


def _write_settings(folder: Path, run_config: RunConfig) -> None:
    from rlnsp.atomic import writing, written_whole

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / "settings.yaml") as aside:
        aside.write_text(config.to_yaml(run_config), encoding="utf-8")


def _nothing(samples: Sequence[Sample], number: int) -> None:
    """Of clips of which nothing is kept."""


def _as_folder(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
