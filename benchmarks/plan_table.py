"""What ``rlnsp plan`` says of the shipped configs of the paper's scale: ``python -m benchmarks.plan_table``.

The tables, of RL and of the stages before it, go into docs/scale.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.pages import fill
from pretrain.command import PRETRAIN, SFT
from rlnsp import config, plugins
from rlnsp.plan.costs import Costs
from rlnsp.plan.estimate import Plan, Rates, estimate
from rlnsp.plan.report import gib
from rlnsp.plan.spread import Spread
from rlnsp.plan.stages import Asked, Devices, PlansStages, StagePlan

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
MARKS = "<!-- plans -->", "<!-- /plans -->"
NOT_MADE_YET = ["policy.config.transformer.path=Lightricks/LTX-Video", "policy.config.connector.path=null"]
"""In the place of what stages 1 and 2 make, of the same sizes."""
READER_7B = "policy.config.comprehension.path=Qwen/Qwen2.5-VL-7B-Instruct"
OFFLOAD = "policy.config.offload=[comprehension,vae]"
CASES: list[tuple[str, int, float, dict[str, str]]] = [
    ("nsp_paper", 16, 80, {}),
    ("nsp_single_gpu", 1, 80, {}),
    ("nsp_lora_24gb", 1, 24, {}),
    ("nsp_lora_24gb", 1, 24, {"Qwen2.5-VL-7B": READER_7B}),
    ("nsp_lora_24gb", 1, 24, {"Qwen2.5-VL-7B": READER_7B, "`offload`": OFFLOAD}),
]
"""Config, GPUs, gigabytes of each, and overrides by what the page calls them."""
PHASES = ("reading", "rollout", "decoding", "training")
HEAD = f"| config | GPUs | stays | {' | '.join(PHASES)} | most | fits | iteration | of it rollout |"

STAGE_MARKS = "<!-- stage plans -->", "<!-- /stage plans -->"
STAGES: dict[str, tuple[PlansStages, list[str]]] = {"pretrain": (PRETRAIN, ["connect"]), "sft": (SFT, [])}
"""Of ``nsp_paper``, and which of their sub-stages are of still images."""
STARTED: list[tuple[int, Spread]] = [
    (1, "none"),
    (8, "none"),
    (8, "gradients"),
    (8, "weights"),
    (16, "weights"),
]
"""On how many GPUs of 80 GB, and what they hold together."""
STAGE_HEAD = "| stage | GPUs | spread | loading | encoding | training | most | fits | a step | the stage |"


def plan(name: str, gpus: int, gigabytes: float, overrides: dict[str, str]) -> Plan:
    """What ``rlnsp plan`` would say."""
    run = config.load(name, [*NOT_MADE_YET, *overrides.values()])
    kind = plugins.find("policies", run.policy.use)
    costs = Costs(kind.outline(config.plugin_settings("policies", run.policy, "policy")))
    return estimate(run, costs, devices=gpus, memory=gigabytes * 1e9, rates=Rates())


def line(name: str, gpus: int, gigabytes: float, overrides: dict[str, str], found: Plan) -> str:
    """A row of the table."""
    with_what = f" with {' and '.join(overrides)}" if overrides else ""
    seconds = sum(found.seconds.values())
    cells = [
        f"`{name}`{with_what}",
        f"{gpus} x {gigabytes:g} GB",
        gib(sum(found.stays.values())),
        *(gib(sum(found.phases[phase].values())) for phase in PHASES),
        f"{gib(found.peak)} GiB",
        "yes" if found.fits else "**no**",
        f"{seconds:.0f} s",
        f"{found.seconds['rollout'] / seconds:.0%}",
    ]
    return f"| {' | '.join(cells)} |"


def stages(name: str, gpus: int, spread: Spread) -> list[str]:
    """Rows of the stages' table."""
    command, pictures = STAGES[name]
    devices = Devices(count=gpus, memory=80e9, rates=Rates(), spread=spread)
    asked = Asked(config="nsp_paper", overrides=[], policy="", pictures=pictures)
    return [stage_line(f"{name}, {one.name}", one) for one in command.plan(asked, devices)]


def stage_line(name: str, found: StagePlan) -> str:
    """A row of theirs; what does not fit has below it what would make it."""
    seconds, devices = sum(found.seconds.values()), found.devices
    keys = f"text_to_video.{found.name}.", "sft.", "loop."
    helps = ", ".join(f"`{_without(one.override.partition(' (')[0], keys)}`" for one in found.remedies)
    cells = [
        name.removesuffix(", sft"),
        f"{devices.count} x {devices.memory / 1e9:g} GB",
        devices.spread,
        *(gib(sum(found.phases[phase].values())) for phase in ("loading", "encoding", "training")),
        f"{gib(found.peak)} GiB",
        "yes" if found.fits else f"**no**; with {helps}: {gib(found.remedies[-1].peak)}",
        f"{seconds:.1f} s",
        f"{seconds * found.steps / 3600:,.0f} h",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Count, print and write."""
    lines = [*_head(HEAD)]
    for case in CASES:
        lines.append(line(*case, plan(*case)))
        print(lines[-1], flush=True)
    fill(PAGE, "\n".join(lines), MARKS)
    lines = [*_head(STAGE_HEAD)]
    for name in STAGES:
        for started in STARTED:
            lines += stages(name, *started)
            print(lines[-1], flush=True)
    fill(PAGE, "\n".join(lines), STAGE_MARKS)


def _without(text: str, parts: Sequence[str]) -> str:
    for part in parts:
        text = text.replace(part, "")
    return text


def _head(columns: str) -> list[str]:
    return [columns, "|---" * columns.count(" | ") + "|---|"]


if __name__ == "__main__":
    main()
