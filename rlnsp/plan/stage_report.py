"""Plans of stages in words and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlnsp.plan.estimate import RESERVE
from rlnsp.plan.report import advice, gib, share
from rlnsp.plan.stages import Devices, StagePlan

if TYPE_CHECKING:
    from rich.table import Table

SPREADING = {
    "none": "each device has all weights",
    "gradients": "gradients, optimiser and average are spread, the weights whole while it computes",
    "weights": "weights, gradients, optimiser and average are spread",
}


def as_json(plans: Sequence[StagePlan]) -> dict[str, Any]:
    """Bytes, operations and seconds, of each device."""
    devices = plans[0].devices
    return {
        "devices": devices.count,
        "memory": devices.memory,
        "spread": devices.spread,
        "fits": all(plan.fits for plan in plans),
        "assumed": {**vars(devices.rates), "reserve": RESERVE},
        "stages": [
            {
                "stage": plan.name,
                "fits": plan.fits,
                "peak": plan.peak,
                "worst_phase": plan.worst_phase,
                "phases": {name: dict(parts) for name, parts in plan.phases.items()},
                "flops_a_step": dict(plan.flops),
                "seconds_a_step": dict(plan.seconds),
                "clips_a_step": plan.clips,
                "steps": plan.steps,
                "encoding_seconds_a_thousand_clips": plan.encoding_seconds,
                "remedies": [vars(one) for one in plan.remedies],
            }
            for plan in plans
        ],
    }


def table(plan: StagePlan) -> Table:
    """Memory by part, a column a phase."""
    from rich.table import Table

    made = Table(title=f"{plan.name}: memory of each of {plan.devices.count}, in GiB", title_justify="left")
    made.add_column("what")
    for phase in plan.phases:
        made.add_column(phase, justify="right")
    for part in dict.fromkeys(name for parts in plan.phases.values() for name in parts):
        cells = (gib(parts[part]) if part in parts else "" for parts in plan.phases.values())
        made.add_row(part, *cells)
    made.add_section()
    made.add_row("all", *(gib(sum(parts.values())) for parts in plan.phases.values()))
    return made


def verdict(plan: StagePlan) -> str:
    """Whether it fits, what to change if not, and how long it takes."""
    has = share(plan.devices.memory)
    says = "fits" if plan.fits else "does not fit"
    lines = [f"{plan.name} {says}: {gib(plan.peak)} GiB, the most in {plan.worst_phase}, of {has}"]
    enough = plan.fits or bool(plan.remedies and plan.remedies[-1].fits)
    lines += advice([(one.override, one.peak) for one in plan.remedies], enough=enough)
    step = sum(plan.seconds.values())
    by = ", ".join(f"{name} {value:,.2f}" for name, value in plan.seconds.items())
    lines.append(
        f"a step of {plan.clips} clips each: {step:,.2f} s ({by}); {plan.steps:,} steps: "
        f"{step * plan.steps / 3600:,.1f} h"
    )
    if plan.encoding_seconds:
        lines.append(f"before them, for each 1,000 clips of the data: {plan.encoding_seconds:,.1f} s")
    return "\n".join(lines)


def assumed(devices: Devices) -> str:
    """What all of it rests on."""
    rates = devices.rates
    return (
        f"assumed: {rates.tflops:g} TFLOP/s, of which DiT and Qwen reach {rates.mfu:.0%} and the VAE "
        f"{rates.decode_mfu:.0%}; reading data, the optimiser and what devices tell each other take no time; "
        f"{SPREADING[devices.spread]}"
    )
