"""What ``rlnsp plan`` says of the shipped configs of the paper's scale: ``python -m benchmarks.plan_table``.

The table goes into docs/scale.md.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.pages import fill
from rlnsp import config, plugins
from rlnsp.plan.costs import Costs
from rlnsp.plan.estimate import Plan, Rates, estimate
from rlnsp.plan.report import gib

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


def main() -> None:
    """Count, print and write."""
    lines = [HEAD, "|---" * HEAD.count(" | ") + "|---|"]
    for case in CASES:
        lines.append(line(*case, plan(*case)))
        print(lines[-1], flush=True)
    fill(PAGE, "\n".join(lines), MARKS)


if __name__ == "__main__":
    main()
