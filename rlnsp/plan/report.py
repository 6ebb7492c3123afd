"""A plan in words and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlnsp.plan.estimate import GIB, RESERVE, Plan, Rates
from rlnsp.plan.remedies import Remedy

if TYPE_CHECKING:
    from rich.table import Table

HOLDING = {
    "none": "each device holds the whole policy",
    "gradients": "each device holds the whole policy while it computes, and what is trained throughout",
    "weights": "devices hold the denoiser's frozen weights together",
}


def as_json(plan: Plan, rates: Rates, found: Sequence[Remedy]) -> dict[str, Any]:
    """Bytes, operations and seconds, of each device."""
    return {
        "devices": plan.devices,
        "spread": plan.spread,
        "memory": plan.memory,
        "fits": plan.fits,
        "peak": plan.peak,
        "worst_phase": plan.worst_phase,
        "stays": dict(plan.stays),
        "phases": {name: dict(parts) for name, parts in plan.phases.items()},
        "flops": dict(plan.flops),
        "seconds": dict(plan.seconds),
        "samples": plan.samples,
        "assumed": {**vars(rates), "reserve": RESERVE},
        "remedies": [{"override": one.override, "peak": one.plan.peak} for one in found],
    }


def tables(plan: Plan) -> list[Table]:
    """Memory by part and phase, then time."""
    from rich.table import Table

    memory = Table(title=f"memory of each of {plan.devices}", title_justify="left")
    for number, column in enumerate(("when", "what", "GiB")):
        memory.add_column(column, justify="right" if number == 2 else "left")
    for name, size in plan.stays.items():
        memory.add_row("throughout", name, gib(size))
    for phase, parts in plan.phases.items():
        memory.add_section()
        for name, size in parts.items():
            memory.add_row(phase, name, gib(size))
    work = Table(title=f"an iteration of {plan.samples} samples each", title_justify="left")
    for number, column in enumerate(("phase", "TFLOP", "seconds")):
        work.add_column(column, justify="right" if number else "left")
    for name, flops in plan.flops.items():
        work.add_row(name, f"{flops / 1e12:,.0f}", f"{plan.seconds[name]:,.1f}")
    work.add_row("all", f"{sum(plan.flops.values()) / 1e12:,.0f}", f"{sum(plan.seconds.values()):,.1f}")
    return [memory, work]


def verdict(plan: Plan, rates: Rates, found: Sequence[Remedy]) -> str:
    """Whether it fits, what to change if not, and what was assumed."""
    has = share(plan.memory)
    says = "fits" if plan.fits else "does not fit"
    lines = [f"{says}: {gib(plan.peak)} GiB, the most in {plan.worst_phase}, of {has}"]
    enough = plan.fits or bool(found and found[-1].plan.fits)
    lines += advice([(one.override, one.plan.peak) for one in found], enough=enough)
    lines.append(
        f"assumed: {rates.tflops:g} TFLOP/s, of which the denoiser reaches {rates.mfu:.0%} and the VAE "
        f"{rates.decode_mfu:.0%}; rewards, and weights that come and go, take no time; {HOLDING[plan.spread]}"
    )
    return "\n".join(lines)


def advice(found: Sequence[tuple[str, float]], *, enough: bool) -> list[str]:
    """Lines of what helps, each with the peak that is left, and of whether that is ``enough``."""
    lines = ["with these, each with those before it:"] if found else []
    lines += [f"  {override}  ({gib(peak)} GiB)" for override, peak in found]
    if not enough:
        lines.append("and that is not enough: fewer frames or pixels, a smaller policy, or a larger device")
    return lines


def share(memory: float) -> str:
    """Of a device's bytes, what there is and what is left free."""
    return f"{gib(memory)} GiB less {RESERVE:.0%} for CUDA's context and fragments"


def gib(size: float) -> str:
    """Bytes in GiB."""
    return f"{size / GIB:,.2f}"
