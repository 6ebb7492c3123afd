"""The figures of ``benchmarks.paper_scale`` as tables, in a page of their own and in docs/scale.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.pages import fill
from benchmarks.phases import PHASES
from benchmarks.speed import machine
from rlnsp.plan.estimate import GIB

FOLDER = Path("docs") / "benchmarks"
PAGE = Path("docs") / "scale.md"
MARKS = "<!-- paper scale -->", "<!-- /paper scale -->"
NAME = "paper-scale"
SIZES = ("group_size", "rollout_batch_size", "micro_batch_size")
"""What settings differ in."""
PLANNED = {"reading": "encode", "rollout": "rollout", "decoding": "decode", "training": "train"}
"""What the plan's phases are called here."""
AGAIN = "train, what checkpointing computes again included"


def fill_docs(root: Path, found: dict[str, Any]) -> None:
    """Write the JSON and the page, and the section of docs/scale.md.

    Raises:
        ValueError: figures of a small model, which are not for docs/.
    """
    if found["size"] != "paper":
        raise ValueError(f"these figures are of size {found['size']}: docs/ are for those of size paper")
    write(root / FOLDER, found)
    fill(root / PAGE, section(found), MARKS)


def write(folder: Path, found: dict[str, Any]) -> None:
    """``paper-scale.json`` and ``paper-scale.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.json").write_text(json.dumps(found, indent=2) + "\n")
    title = "# The paper's model, measured" if found["size"] == "paper" else "# A small model, measured"
    (folder / f"{NAME}.md").write_text(f"{title}\n\n{section(found)}\n\n{check(found)}\n")


def section(found: dict[str, Any]) -> str:
    """What the weights are, then a table a setting."""
    parts = found.get("parameters", {})
    named = ", ".join(f"{name} {value:,}" for name, value in parts.items())
    kind = "The paper's model" if found["size"] == "paper" else "**A small stand-in for the paper's model**"
    here, peak = found["environment"], ""
    if found["tflops"]:
        peak = f", {found['tflops']:g} TFLOP/s in bf16 by its maker"
    lines = [
        f"{kind}, random weights ({named}; LoRA {found.get('trained', 0):,}) on {machine(here)}{peak}; "
        f"torch {here['packages']['torch']}. Weights drawn in {found.get('build_s', 0):.0f} s.",
        "",
    ]
    if report := found.get("check"):
        says = "nothing is wrong" if report["passed"] else f"**wrong: {', '.join(report['failed'])}**"
        lines += [f"`rlnsp check`: {says}, in {report['seconds']:.0f} s.", ""]
    for one in found.get("settings", []):
        lines += [*setting(one, found["tflops"]), ""]
    return "\n".join(lines).rstrip()


def setting(one: dict[str, Any], tflops: float | None) -> list[str]:
    """A heading, what it took, and a row a phase."""
    sizes = ", ".join(f"{key} {value}" for key, value in one["sizes"].items())
    head = f"**{one['name']}**: {sizes}."
    if "out_of_memory" in one:
        return [f"{head} **Out of memory**, where the plan said {one['plan']['peak'] / GIB:.1f} GiB."]
    total = sum(one["seconds"].values())
    planned = sum(one["plan"]["seconds"].values())
    most = one["stays"] + max(one["bytes"].values())
    reserved = f", {one['reserved'] / GIB:.1f} with the allocator's cache" if one["reserved"] else ""
    lines = [
        f"{head} {total:.3g} s an iteration of {one['samples']} samples ({one['samples'] / total:.3g} a "
        f"second; planned {planned:.3g} s), the median of {len(one['iterations'])}. Most memory {gib(most)} "
        f"GiB{reserved} (planned {gib(one['plan']['peak'])}); of it throughout {gib(one['stays'])} (planned "
        f"{gib(one['plan']['stays'])}).",
        "",
        "| phase | seconds | planned | TFLOP | of the peak | GiB beyond what stays | planned | its error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return [*lines, *(row(phase, one, tflops) for phase in PHASES)]


def row(phase: str, one: dict[str, Any], tflops: float | None) -> str:
    """One phase, measured and planned."""
    seconds, held = one["seconds"][phase], one["bytes"][phase]
    flops, plan = one["flops"].get(phase), one["plan"]
    planned_s, planned = plan["seconds"].get(phase), plan["bytes"].get(phase)
    share = ""
    if flops and tflops:
        share = f"{flops / seconds / tflops / 1e12:.1%}"
        if phase == "train":
            share += f" ({one['flops'][AGAIN] / seconds / tflops / 1e12:.1%} with what is computed again)"
    cells = [
        phase,
        f"{seconds:.3g}",
        "" if planned_s is None else f"{planned_s:.3g}",
        "" if not flops else f"{flops / 1e12:,.3g}",
        share,
        gib(held),
        "" if planned is None else gib(planned),
        "" if planned is None or not held else f"{planned / held - 1:+.0%}",
    ]
    return f"| {' | '.join(cells)} |"


def check(found: dict[str, Any]) -> str:
    """Every finding of ``rlnsp check``."""
    if "check" not in found:
        return ""
    lines = ["| check | | found |", "|---|---|---|"]
    for one in found["check"]["checks"]:
        says = one["says"].replace("|", "\\|")
        lines.append(f"| {one['check']} | {one['verdict']} | {says} |")
    return "\n".join(lines)


def gib(size: float) -> str:
    """Bytes in GiB, of three digits."""
    return f"{size / GIB:.3g}"
