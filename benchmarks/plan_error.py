"""How far ``rlnsp plan`` is from what is measured, at sizes that a CPU can run.

``python -m benchmarks.plan_error [--write docs/scale.md]``

Memory: the peak of torch's tensors that the profiler records while the work is done, weights left out,
against the plan's count on fake tensors.  By the embedded world's policy, and by LTX-Video and Wan pipelines
of random weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from benchmarks import stage_plan_error
from benchmarks.compared import CONVOLUTION, MIB, Compared
from benchmarks.memory import peak_bytes
from benchmarks.pages import fill, page_to_write
from benchmarks.random_ltx import SIZE_TINY, random_ltx
from benchmarks.random_wan import TINY_TRANSFORMER, TINY_VAE, random_wan
from policies.ltx_video import LTXVideo
from policies.outlines import TEXT_TOKENS
from policies.unified import Unified
from policies.unified.comprehension import NEXT_SCENE
from policies.wan import Wan
from rlnsp import config
from rlnsp.plan.costs import Costs
from rlnsp.plan.estimate import GIB, Rates, estimate
from rlnsp.randomness import Randomness
from rlnsp.rollout import rollout
from rlnsp.types import Condition, Scene
from rlnsp.world import scenes

MARKS = ("<!-- plan error -->", "<!-- /plan error -->")
CASES: dict[str, dict[str, Any]] = {
    "fp32": {},
    "checkpointing": {"gradient_checkpointing": True},
    "bf16": {"dtype": "bf16"},
}
OF_PIPELINES: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16, checkpointing": {"dtype": "bf16", "gradient_checkpointing": True},
}
PIPELINES: dict[str, tuple[Any, dict[str, Any]]] = {
    "ltx_video": (LTXVideo, {"num_frames": 17, "height": 128, "width": 128, "fps": 16.0, "max_length": 160}),
    "wan": (Wan, {"num_frames": 9, "height": 64, "width": 64, "fps": 16.0, "max_length": 512}),
}
"""48 latent tokens each."""


def compared(batches: tuple[int, ...] = (2, 8)) -> Iterator[Compared]:
    """Calls, training steps, readings, decodings, by policy, settings and batch; a rollout; and stage 2."""
    for name, own in CASES.items():
        settings = Unified.Config(device="cpu", **own)
        policy, costs = Unified(settings), Costs(Unified.outline(settings))
        for batch in batches:
            yield from of_calls(name, policy, costs, batch)
        if not settings.gradient_checkpointing:  # which is of the denoiser
            yield of_reading(name, policy, costs, max(batches))
    settings = Unified.Config(device="cpu")
    policy, costs = Unified(settings), Costs(Unified.outline(settings))
    for batch in batches:
        yield from of_decoding("", policy, costs, batch)
    yield of_rollout(policy, costs)
    for name in PIPELINES:
        with TemporaryDirectory() as folder:
            _write(name, Path(folder))
            yield from of_pipeline(name, Path(folder), max(batches))
    yield from stage_plan_error.compared()


def _write(name: str, folder: Path) -> None:
    if name == "wan":
        random_wan(TINY_TRANSFORMER, TINY_VAE).save_pretrained(folder)
    else:
        random_ltx(folder, SIZE_TINY["transformer"], SIZE_TINY["vae"])


def of_pipeline(name: str, folder: Path, batch: int, **own: Any) -> Iterator[Compared]:
    """The same for a text-to-video policy whose pipeline is in ``folder``; ``own`` are more settings."""
    kind, clip = PIPELINES[name]
    for case, also in OF_PIPELINES.items():
        settings = kind.Config(folder=str(folder), device="cpu", **{**clip, **own, **also})
        policy, costs = kind(settings), Costs(kind.outline(settings))
        yield from of_calls(f"{name}, {case}", policy, costs, batch)
        yield from of_decoding(f"{name}, {case}: ", policy, costs, batch)


def of_calls(name: str, policy: Any, costs: Costs, batch: int) -> Iterator[Compared]:
    """A model call and a training step."""
    with torch.no_grad():
        condition = policy.encode(scenes("train", batch, 0))
    x = policy.noise(batch, torch.Generator().manual_seed(0))
    sigma = torch.full((batch,), 0.7)
    for train in (False, True):
        cost = (costs.of_training if train else costs.of_calls)(batch, 1.0)
        measured = peak_bytes(partial(_call, policy, x, sigma, condition, train))
        what = f"{name}: {'training step' if train else 'model call'} of {batch}"
        yield Compared(what=what, planned=cost.bytes, measured=measured)


def of_reading(name: str, policy: Unified, costs: Costs, rows: int) -> Compared:
    """Of texts as long as the plan takes them to be, the null row among them."""
    text, reader = "", policy.model.comprehension
    while len(reader.tokenizer(reader.prompt(NEXT_SCENE.format(text)))["input_ids"]) < TEXT_TOKENS:
        text += " ball"
    chosen = [Scene(id=str(row), context=text) for row in range(rows - 1)]

    def work() -> None:
        with torch.no_grad():
            policy.encode(chosen)

    what = f"{name}: reading of {rows - 1}"
    return Compared(what=what, planned=costs.reading_bytes(rows), measured=peak_bytes(work))


def of_decoding(name: str, policy: Any, costs: Costs, batch: int) -> Iterator[Compared]:
    """As many clips at once as the settings allow; with and without what convolutions take for themselves."""
    generator = torch.Generator().manual_seed(0)
    work = partial(policy.decode, policy.noise(batch, generator), generator)
    planned = costs.of_decoding(min(batch, policy.config.decode_batch_size)).bytes
    what = f"{name}decoding of {batch}"
    yield Compared(what=what, planned=planned, measured=peak_bytes(work))
    left_out = peak_bytes(work, closed=CONVOLUTION)
    yield Compared(what=f"{what}, convolutions' own left out", planned=planned, measured=left_out)


def _call(policy: Any, x: Tensor, sigma: Tensor, condition: Condition, train: bool) -> None:
    with torch.set_grad_enabled(train):
        rows = condition.take(torch.arange(len(x)))  # which copies them, in a rollout and in training too
        v = policy.velocity(x, sigma, rows)
        if train:
            v.pow(2).mean().backward()
    for _, parameter in policy.named_trainable():
        parameter.grad = None


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
        what=f"rollout of {plan.samples} with 6 steps kept",
        planned=sum(sizes.values()),
        measured=peak_bytes(work),
    )


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
