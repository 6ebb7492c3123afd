"""What one model call, one training step and one decoding take, counted on a policy's outline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from rlnsp.plan.outline import Outline
from rlnsp.plan.tally import Tally, tallied
from rlnsp.types import Condition


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of some work: operations, and the most memory beyond what was there before."""

    flops: float
    bytes: float


def of_calls(outline: Outline, batch: int, guidance_scale: float) -> Cost:
    """One call of the denoiser on ``batch`` samples, without gradient."""
    return _over_blocks(outline, lambda blocks: _call(outline, blocks, batch, guidance_scale, train=False))


def of_training(outline: Outline, batch: int, guidance_scale: float) -> Cost:
    """Forward and backward on ``batch`` transitions, what checkpointing does again included."""
    return _over_blocks(outline, lambda blocks: _call(outline, blocks, batch, guidance_scale, train=True))


def of_decoding(outline: Outline, batch: int) -> Cost:
    """``batch`` clips, as many at once."""
    module, decode = outline.decoder()

    def work() -> None:
        with torch.no_grad():
            decode(torch.empty(batch, *outline.latent))

    tally = tallied(module, work)
    return Cost(flops=tally.flops, bytes=tally.peak)


def of_reading(outline: Outline, rows: int) -> float:
    """Operations: two a parameter and token."""
    return 2.0 * outline.read_parameters * outline.read_tokens * rows


def _call(outline: Outline, blocks: int, batch: int, guidance_scale: float, *, train: bool) -> Tally:
    module, velocity = outline.denoiser(blocks)

    def work() -> None:
        (tokens, channels), (length, width) = outline.latent, outline.condition
        condition = Condition(
            embeds=torch.empty(batch, length, width),
            mask=torch.ones(batch, length, dtype=torch.bool),
            null_embeds=torch.empty(1, length, width),
            null_mask=torch.ones(1, length, dtype=torch.bool),
        )
        with torch.set_grad_enabled(train):
            v = velocity(torch.empty(batch, tokens, channels), torch.ones(batch), condition, guidance_scale)
            if train:
                v.pow(2).mean().backward()

    return tallied(module, work)


def _over_blocks(outline: Outline, counted: Callable[[int], Tally]) -> Cost:
    """From two and three blocks to all of them: what a block adds, it adds each time."""
    two, three = counted(2), counted(3)
    more = outline.blocks - 2
    return Cost(
        flops=two.flops + more * (three.flops - two.flops), bytes=two.peak + more * (three.peak - two.peak)
    )
