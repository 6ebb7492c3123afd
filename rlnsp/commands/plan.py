"""``rlnsp plan``: the memory and time that a run will take, before it is begun and without its weights."""

from __future__ import annotations

import argparse
import json

from rlnsp import config, plugins
from rlnsp.commands.train import add_config_arguments, overrides_of
from rlnsp.settings import ConfigError, RunConfig, require

EXAMPLE = """\
examples:
  rlnsp plan --config nsp_paper --gpus 16 --memory-gb 80
  rlnsp plan --config nsp_single_gpu --tflops 989
  rlnsp plan --config world trainer.group_size=24 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``rlnsp plan``."""
    parser.epilog = EXAMPLE
    add_config_arguments(parser)
    parser.add_argument(
        "--gpus", type=int, default=1, metavar="N", help="devices, among which the groups are shared out (1)"
    )
    parser.add_argument("--memory-gb", type=float, default=80.0, metavar="GB", help="of a device (80)")
    parser.add_argument(
        "--tflops", type=float, default=312.0, metavar="N", help="a device's peak in dense bf16 (312: A100)"
    )
    parser.add_argument(
        "--mfu", type=float, default=0.4, metavar="SHARE", help="of it that the denoiser reaches (0.4)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")


def run(args: argparse.Namespace) -> int:
    """Count and print; 0 where the run fits, else 1."""
    require(args.gpus >= 1, f"--gpus must be at least 1; got {args.gpus}")
    for name in ("memory_gb", "tflops"):
        value = getattr(args, name)
        require(value > 0, f"--{name.replace('_', '-')} must be positive; got {value:g}")
    require(0 < args.mfu <= 1, f"--mfu must be in (0, 1]; got {args.mfu:g}")
    run_config = config.load(args.config or "world", overrides_of(args))

    from rich.console import Console

    from rlnsp.plan import report
    from rlnsp.plan.costs import Costs
    from rlnsp.plan.estimate import Plan, Rates, estimate
    from rlnsp.plan.outline import Outlines
    from rlnsp.plan.remedies import remedies

    kind = plugins.find("policies", run_config.policy.use)
    if not isinstance(kind, Outlines):
        raise ConfigError(
            f"policy.use: {run_config.policy.use} cannot be planned with: it has no outline; "
            "see rlnsp.plan.outline.Outlines"
        )
    rates = Rates(tflops=args.tflops, mfu=args.mfu)
    known: dict[str, Costs] = {}

    def plan_of(one: RunConfig) -> Plan:
        policy = json.dumps(one.policy.config)
        if policy not in known:
            known[policy] = Costs(kind.outline(config.plugin_settings("policies", one.policy, "policy")))
        # A card's gigabytes are of 1e9 in its name and nearly of 2^30 in its memory.
        return estimate(one, known[policy], devices=args.gpus, memory=args.memory_gb * 1e9, rates=rates)

    with Console(stderr=True).status("counting on tensors that are not there"):
        plan = plan_of(run_config)
        found = [] if plan.fits else remedies(run_config, plan_of)
    if args.json:
        print(json.dumps(report.as_json(plan, rates, found), indent=2))
    else:
        Console().print(*report.tables(plan), sep="\n")
        print(report.verdict(plan, rates, found))
    return 0 if plan.fits else 1
