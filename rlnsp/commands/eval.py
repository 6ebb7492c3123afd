"""``rlnsp eval``: policies on the same held-out scenes from the same noise, in one table."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from rlnsp import config
from rlnsp.commands.train import add_config_arguments, overrides_of
from rlnsp.settings import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from rlnsp.evaluate import Evaluation

EXAMPLE = """\
examples:
  rlnsp eval --policy world --policy runs/demo
  rlnsp eval --policy runs/demo --config world evaluation.num_scenes=512 evaluation.num_seeds=3 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``rlnsp eval``."""
    parser.epilog = EXAMPLE
    parser.add_argument(
        "--policy",
        action="append",
        required=True,
        metavar="RUN_OR_FOLDER",
        help="a run folder, a policy folder, or world; may be repeated, and each is compared to the first",
    )
    add_config_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print; the exit code."""
    repeated = {name for name in args.policy if args.policy.count(name) > 1}
    if repeated:
        raise ConfigError(f"--policy {repeated.pop()}: is given twice; give each policy once")
    run_config = config.load(args.config or "world", overrides_of(args))

    from rich.console import Console

    from rlnsp.data import heldout_scenes
    from rlnsp.evaluate import evaluate
    from rlnsp.opening import open_policy
    from rlnsp.precision import in_precision
    from rlnsp.scoring import RewardFailed, build_rewards, check_scenes

    rewards = build_rewards(run_config.rewards)
    scenes = heldout_scenes(run_config.data, run_config.evaluation.num_scenes, run_config.evaluation.seed)
    check_scenes(rewards, scenes)
    console = Console(stderr=True)
    found: dict[str, Evaluation] = {}
    for name in args.policy:
        policy = in_precision(open_policy(run_config.policy, name), run_config.trainer.precision)
        try:
            with console.status(f"{name}: {len(scenes)} scenes"):
                found[name] = evaluate(
                    policy,
                    scenes,
                    rewards,
                    run_config.sampler,
                    run_config.evaluation,
                    chunk_size=run_config.trainer.micro_batch_size,
                )
        except RewardFailed as error:
            print(f"rlnsp: error: {error}", file=sys.stderr)
            return 1
    if args.json:
        print(json.dumps(_as_json(found), indent=2))
    else:
        Console().print(_table(found))
    return 0


def _as_json(found: dict[str, Evaluation]) -> dict[str, object]:
    """Per policy and measure: mean, ci95, number of scenes; and how it was measured."""
    answer: dict[str, object] = {}
    for name, evaluation in found.items():
        intervals = {measure: evaluation.interval(measure) for measure in evaluation.scores}
        answer[name] = {
            "measures": {
                measure: {"mean": one.mean, "ci95": one.ci95, "n": one.n} if one.n else None
                for measure, one in intervals.items()
            },
            "how": evaluation.how,
        }
    return answer


def _table(found: dict[str, Evaluation]) -> Table:
    from rich.table import Table

    from rlnsp.evaluate import DISTANCE, paired_difference

    first_name, first = next(iter(found.items()))
    table = Table(title=f"{len(first.scene_ids)} held-out scenes", title_justify="left")
    for column in ("measure", "policy", "mean", "95% interval", f"less {first_name}"):
        table.add_column(
            column, justify="left" if column in {"measure", "policy"} else "right", overflow="fold"
        )
    measured = [name for name in first.scores if first.interval(name).n]
    for measure in measured:
        for name, evaluation in found.items():
            one = evaluation.interval(measure)
            change = paired_difference(first, evaluation, measure)
            ends = f"{one.low:.3f} to {one.high:.3f}"
            less = (
                "" if evaluation is first else f"{change.mean:+.3f} ({change.low:+.3f} to {change.high:+.3f})"
            )
            table.add_row(measure, name, f"{one.mean:.3f}", ends, less)
        table.add_section()
    if DISTANCE in measured:
        table.caption = f"{DISTANCE}: lower is better"
    return table
