"""How far ``rlnsp plan`` is from what is measured, at sizes that a CPU can run.

``python -m benchmarks.plan_error [--write docs/scale.md]``

Memory: the peak of torch's tensors that the profiler records while the work is done by the embedded world's
policy, weights left out, against the plan's count on fake tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.ablation_table import fill, page_to_write
from benchmarks.memory import peak_bytes
from policies.unified import Unified
from rlnsp import config
from rlnsp.plan.costs import Costs
from rlnsp.plan.estimate import GIB, Rates, estimate
from rlnsp.randomness import Randomness
from rlnsp.rollout import rollout
from rlnsp.types import Condition
from rlnsp.world import scenes

MARKS = ("<!-- plan error -->", "<!-- /plan error -->")
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One piece of work."""

    what: str
    planned: float
    measured: float

    @property
    def error(self) -> float:
        """Of the plan, as a share of what was measured."""
        return self.planned / self.measured - 1


CASES: dict[str, dict[str, Any]] = {
    "fp32": {},
    "checkpointing": {"gradient_checkpointing": True},
    "bf16": {"dtype": "bf16"},
}


def compared(batches: tuple[int, ...] = (2, 8)) -> Iterator[Compared]:
    """A model call, a training step and a decoding, by batch and settings; and a whole rollout."""
    for name, own in CASES.items():
        settings = Unified.Config(device="cpu", **own)
        policy, costs = Unified(settings), Costs(Unified.outline(settings))
        with torch.no_grad():
            condition = policy.encode(scenes("train", max(batches), 0))
        for batch in batches:
            taken = condition.take(torch.arange(batch))
            x = policy.noise(batch, torch.Generator().manual_seed(0))
            sigma = torch.full((batch,), 0.7)

            for train in (False, True):
                cost = (costs.of_training if train else costs.of_calls)(batch, 1.0)
                measured = least(partial(_call, policy, x, sigma, taken, train))
                what = f"{name}: {'training step' if train else 'model call'} of {batch}"
                yield Compared(what=what, planned=cost.bytes, measured=measured)
    settings = Unified.Config(device="cpu")
    policy, costs = Unified(settings), Costs(Unified.outline(settings))
    generator = torch.Generator().manual_seed(0)
    for batch in batches:
        x = policy.noise(batch, generator)
        measured = least(partial(_decode, policy, x, generator))
        yield Compared(
            what=f"decoding of {batch}",
            planned=costs.of_decoding(min(batch, 16)).bytes,
            measured=measured,
        )
    yield of_rollout(policy, costs)


def _call(policy: Unified, x: Tensor, sigma: Tensor, condition: Condition, train: bool) -> None:
    with torch.set_grad_enabled(train):
        v = policy.velocity(x, sigma, condition)
        if train:
            v.pow(2).mean().backward()
    for _, parameter in policy.named_trainable():
        parameter.grad = None


def _decode(policy: Unified, x: Tensor, generator: torch.Generator) -> None:
    policy.decode(x, generator)


def of_rollout(policy: Unified, costs: Costs) -> Compared:
    """A rollout whose kept steps weigh more than its model calls."""
    overrides = ["algorithm.use=grpo", "sampler.rule=cps", "sampler.window.size=6", "sampler.num_steps=8"]
    overrides += ["sampler.same_noise=true", "trainer.scenes_per_iteration=4", "trainer.group_size=32"]
    run = config.load("world", [*overrides, "trainer.micro_batch_size=8", "trainer.ema_decay=null"])
    plan = estimate(run, costs, devices=1, memory=80 * GIB, rates=Rates())
    chosen = scenes("train", run.trainer.scenes_per_iteration, 0)

    def work() -> None:
        rollout(
            policy,
            chosen,
            run.sampler,
            run.trainer.group_size,
            Randomness(seed=0),
            chunk_size=run.trainer.micro_batch_size,
            decode=False,
        )

    sizes = plan.phases["rollout"]
    return Compared(
        what=f"rollout of {plan.samples} with 6 steps kept", planned=sum(sizes.values()), measured=least(work)
    )


def least(work: Callable[[], None], times: int = 1) -> int:
    """Of several: the first also takes what is kept for good."""
    return min(peak_bytes(work) for _ in range(times))


def table(rows: list[Compared]) -> str:
    """Markdown."""
    lines = ["| | planned, MiB | measured, MiB | error |", "|---|---|---|---|"]
    lines += [
        f"| {row.what} | {row.planned / MIB:.1f} | {row.measured / MIB:.1f} | {row.error:+.0%} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write where asked."""
    page = page_to_write(__doc__, MARKS)
    rows = []
    for row in compared():
        rows.append(row)
        print(row.what, f"{row.error:+.1%}", flush=True)
    text = table(rows)
    print(text)
    if page:
        fill(page, text, MARKS)


if __name__ == "__main__":
    main()
