"""``rlnsp reward list``: what --reward can be given.  ``rlnsp reward test``: whether it can be trained on."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

from rlnsp import config, plugins
from rlnsp.dataset.hub import place_of
from rlnsp.declaration import declared
from rlnsp.settings import ConfigError

if TYPE_CHECKING:
    from rlnsp.built_reward import BuiltReward
    from rlnsp.testing.bench import Bench
    from rlnsp.testing.contract import Finding

EXAMPLE = """\
examples:
  rlnsp reward list
  rlnsp reward test nsp_reward
  rlnsp reward test my.py:Mine rewards.Mine.config.scale=2 --manifest clips/manifest.jsonl --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``rlnsp reward``."""
    parser.epilog = EXAMPLE
    parser.add_argument(
        "action",
        choices=["list", "test"],
        help="list: each installed reward, its range and needs; test: whether one can be trained on, a "
        "verdict a line",
    )
    parser.add_argument("reward", nargs="?", help="to test: a name, package.module:NAME or file.py:NAME")
    parser.add_argument(
        "overrides", nargs="*", metavar="a.b=c", help="settings, such as rewards.NAME.config.x=1"
    )
    parser.add_argument(
        "--manifest", type=place_of, metavar="FILE", help="test on its scenes and videos, not the world's"
    )
    parser.add_argument("--scenes", type=int, default=16, metavar="N", help="how many scenes to test on (16)")
    parser.add_argument(
        "--draws", action="store_true", help="the reward draws: it need not answer twice alike"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """List or test; the exit code: 1 where a test failed."""
    if args.action == "list":
        rows = [_row(name, point) for name, point in plugins.installed("rewards").items()]
        print(json.dumps([_as_json(row) for row in rows], indent=2) if args.json else _listed(rows))
        return 0
    if args.reward is None:
        raise ConfigError(
            "rlnsp reward test: names no reward; give a name, package.module:NAME or file.py:NAME"
        )
    if args.scenes < 2:
        raise ConfigError(f"--scenes must be at least 2; got {args.scenes}")
    reward, bench = _prepare(args)

    from rlnsp.testing.contract import examine

    findings = examine(reward, bench, deterministic=not args.draws)
    passed = all(finding.verdict != "fail" for finding in findings)
    about = {"reward": args.reward, "passed": passed, "clips": len(bench.samples)}
    if args.json:
        print(json.dumps({**about, "findings": [dataclasses.asdict(one) for one in findings]}, indent=2))
    else:
        print(_verdict(about, findings))
    return 0 if passed else 1


def _prepare(args: argparse.Namespace) -> tuple[BuiltReward, Bench]:
    """The reward, and the clips to try it on."""
    slots = config.load("world", args.overrides, [args.reward]).rewards

    from rlnsp.manifest import read_manifest
    from rlnsp.scoring import build_rewards, check_scenes
    from rlnsp.testing.bench import make_bench
    from rlnsp.world import scenes

    rewards = build_rewards(slots)
    of = read_manifest(args.manifest) if args.manifest else scenes("heldout", args.scenes, seed=0)
    of = of[: args.scenes]
    check_scenes(rewards, of)
    return rewards[0], make_bench(of)


def _row(name: str, point: EntryPoint) -> dict[str, Any]:
    """What is known of an installed reward without building it."""
    row = {"name": name, "range": None, "needs": None, "installed": True, "about": "", "from": point.value}
    try:
        found = point.load()
    except ImportError as error:
        return {**row, "installed": False, "about": f"cannot be imported: {error}"}
    said = declared(found)
    about = (found.__doc__ or "").strip().partition("\n")[0]
    return {**row, "range": said.range, "needs": said.needs or ("frames",), "about": about}


def _as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: an end of the range that is none is null."""
    ends = row["range"] and [end if math.isfinite(end) else None for end in row["range"]]
    return {**row, "range": ends}


def _listed(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [("name", "range", "needs", "installed", "about")]
    for row in rows:
        scale = "not stated" if row["range"] is None else " to ".join(f"{end:g}" for end in row["range"])
        installed = "yes" if row["installed"] else "no"
        cells.append((row["name"], scale, ", ".join(row["needs"] or ()), installed, row["about"]))
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[4]]).rstrip()
        for line in cells
    )


def _verdict(about: Mapping[str, Any], findings: Sequence[Finding]) -> str:
    lines = [f"{one.verdict}  {one.claim:<18}  {one.detail}".rstrip() for one in findings]
    failed = sum(one.verdict == "fail" for one in findings)
    last = "can be trained on" if about["passed"] else f"{failed} failed: repair it before training on it"
    return "\n".join([f"{about['reward']}, on {about['clips']} clips", *lines, f"{about['reward']} {last}"])
