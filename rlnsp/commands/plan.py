"""``rlnsp plan``: the memory and time that a run will take, before it is begun and without its weights."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from rlnsp import config, plugins
from rlnsp.commands.train import add_config_arguments, overrides_of
from rlnsp.plan.spread import SPREADS
from rlnsp.settings import ConfigError, RunConfig, require

if TYPE_CHECKING:
    from rlnsp.plan.estimate import Plan
    from rlnsp.plan.spread import Spread
    from rlnsp.plan.stages import Devices, PlansStages

RL = "rl"
"""The stage that ``rlnsp train`` is; others are those commands that plan theirs."""
EXAMPLE = """\
examples:
  rlnsp plan --config nsp_paper --gpus 16 --memory-gb 80
  rlnsp plan --config nsp_single_gpu --tflops 989
  rlnsp plan --config world trainer.group_size=24 --json
  rlnsp plan --stage pretrain --config nsp_paper --pictures connect --gpus 16 --spread weights
  rlnsp plan --stage sft --config nsp_paper --policy runs/pretrain/policy --precompute
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``rlnsp plan``."""
    parser.epilog = EXAMPLE
    add_config_arguments(parser)
    parser.add_argument(
        "--stage",
        default=RL,
        metavar="NAME",
        help="what is planned: rl, or a command that trains what comes before it, whose configs and settings "
        "are then meant (rl)",
    )
    parser.add_argument(
        "--gpus", type=int, default=1, metavar="N", help="devices, among which the work is shared out (1)"
    )
    parser.add_argument(
        "--spread",
        choices=SPREADS,
        default="none",
        help="what they hold together: nothing; gradients, optimiser states and averages (as with "
        "fsdp2_zero2.yaml and ZeRO-2); or weights, too (fsdp2.yaml, ZeRO-3) (none)",
    )
    parser.add_argument("--memory-gb", type=float, default=80.0, metavar="GB", help="of a device (80)")
    parser.add_argument(
        "--tflops", type=float, default=312.0, metavar="N", help="a device's peak in dense bf16 (312: A100)"
    )
    parser.add_argument(
        "--mfu", type=float, default=0.4, metavar="SHARE", help="of it that the denoiser reaches (0.4)"
    )
    of_stages = parser.add_argument_group("of a stage before rl")
    of_stages.add_argument("--policy", default="", metavar="FOLDER", help="as the stage's command has it")
    of_stages.add_argument("--precompute", action="store_true", help="the same (data.clips=precomputed)")
    of_stages.add_argument(
        "--pictures",
        action="append",
        default=[],
        metavar="NAME",
        help="a sub-stage whose data are still images, which take far less than clips; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")


def run(args: argparse.Namespace) -> int:
    """Count and print; 0 where all of it fits, else 1."""
    require(args.gpus >= 1, f"--gpus must be at least 1; got {args.gpus}")
    for name in ("memory_gb", "tflops"):
        value = getattr(args, name)
        require(value > 0, f"--{name.replace('_', '-')} must be positive; got {value:g}")
    require(0 < args.mfu <= 1, f"--mfu must be in (0, 1]; got {args.mfu:g}")
    require(
        args.spread == "none" or args.gpus > 1,
        f"--spread {args.spread}: a device alone shares nothing; give --gpus, or leave it out",
    )
    return _rl(args) if args.stage == RL else _stage(args)


def _rl(args: argparse.Namespace) -> int:
    for flag in ("policy", "precompute", "pictures"):
        require(not getattr(args, flag), f"--{flag} is of stages before rl; give --stage, or leave it out")
    run_config = config.load(args.config or "world", overrides_of(args))

    from rich.console import Console

    from rlnsp.plan import report
    from rlnsp.plan.costs import Costs
    from rlnsp.plan.estimate import estimate
    from rlnsp.plan.outline import Outlines
    from rlnsp.plan.remedies import remedies
    from rlnsp.protocols import Shards

    kind = plugins.find("policies", run_config.policy.use)
    if not isinstance(kind, Outlines):
        raise ConfigError(
            f"policy.use: {run_config.policy.use} cannot be planned with: it has no outline; "
            "see rlnsp.plan.outline.Outlines"
        )
    can_spread = isinstance(kind, Shards)
    require(
        can_spread or args.spread == "none",
        f"--spread {args.spread}: policy.use: {run_config.policy.use} has no shards(): give it one "
        "(rlnsp.protocols.Shards), or leave it out",
    )
    devices = _devices(args)
    known: dict[str, Costs] = {}

    def plan_of(one: RunConfig, spread: Spread) -> Plan:
        policy = json.dumps(one.policy.config)
        if policy not in known:
            known[policy] = Costs(kind.outline(config.plugin_settings("policies", one.policy, "policy")))
        return estimate(
            one,
            known[policy],
            devices=devices.count,
            memory=devices.memory,
            rates=devices.rates,
            spread=spread,
        )

    with Console(stderr=True).status("counting on tensors that are not there"):
        plan = plan_of(run_config, args.spread)
        may = can_spread and args.gpus > 1
        found = [] if plan.fits else remedies(run_config, plan_of, args.spread, can_spread=may)
    if args.json:
        print(json.dumps(report.as_json(plan, devices.rates, found), indent=2))
    else:
        Console().print(*report.tables(plan), sep="\n")
        print(report.verdict(plan, devices.rates, found))
    return 0 if plan.fits else 1


def _stage(args: argparse.Namespace) -> int:
    from rich.console import Console

    from rlnsp.plan import stage_report
    from rlnsp.plan.stages import Asked

    command = _command(args.stage)
    overrides = [*(["data.clips=precomputed"] if args.precompute else []), *args.overrides]
    require(args.seed is None, f"--seed says nothing of --stage {args.stage}; leave it out")
    asked = Asked(
        config=args.config or "world", overrides=overrides, policy=args.policy, pictures=args.pictures
    )
    devices = _devices(args)
    with Console(stderr=True).status("counting on tensors that are not there"):
        plans = command.plan(asked, devices)
    if args.json:
        print(json.dumps(stage_report.as_json(plans), indent=2))
    else:
        for plan in plans:
            Console().print(stage_report.table(plan))
            print(stage_report.verdict(plan))
        print(stage_report.assumed(devices))
    return 0 if all(plan.fits for plan in plans) else 1


def _command(stage: str) -> PlansStages:
    from rlnsp.plan.stages import PlansStages

    points = plugins.installed("commands")
    command = points[stage].load() if stage in points else None
    if isinstance(command, PlansStages):
        return command
    known = [RL, *(name for name, point in points.items() if isinstance(point.load(), PlansStages))]
    hint = plugins.nearest(stage, known)
    raise ConfigError(f"--stage {stage}: no such stage can be planned{hint}; stages: {', '.join(known)}")


def _devices(args: argparse.Namespace) -> Devices:
    from rlnsp.plan.estimate import Rates
    from rlnsp.plan.stages import Devices

    # A card's gigabytes are of 1e9 in its name and nearly of 2^30 in its memory.
    return Devices(
        count=args.gpus,
        memory=args.memory_gb * 1e9,
        rates=Rates(tflops=args.tflops, mfu=args.mfu),
        spread=args.spread,
    )
