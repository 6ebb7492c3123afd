"""What one model call, one training step and one decoding take, counted on a policy's outline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from rlnsp.plan.outline import Outline
from rlnsp.plan.spread import Spreadable
from rlnsp.plan.tally import Tally, tallied
from rlnsp.types import Condition

DTYPES = {2: torch.bfloat16, 4: torch.float32}
"""By the bytes of a number."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of some work: operations, and the most memory beyond what was there before."""

    flops: float
    bytes: float


class Costs:
    """What one model call, one training step and one decoding take; each is counted once."""

    def __init__(self, outline: Outline) -> None:
        self.outline = outline
        self._known: dict[tuple[str, int, float], Cost] = {}

    def of_calls(self, batch: int, guidance_scale: float) -> Cost:
        """A call of the denoiser on ``batch`` samples, without gradient."""
        return self._once("calls", batch, guidance_scale)

    def of_training(self, batch: int, guidance_scale: float) -> Cost:
        """Forward and backward on ``batch`` transitions, what checkpointing does again included."""
        return self._once("training", batch, guidance_scale)

    def of_decoding(self, batch: int) -> Cost:
        """``batch`` clips, as many at once."""
        return self._once("decoding", batch, 1.0)

    def of_reading(self, rows: int) -> float:
        """Operations: two a parameter and token."""
        return 2.0 * self.outline.read_parameters * self.outline.read_tokens * rows

    def reading_bytes(self, rows: int) -> float:
        """The most memory of reading so many scenes at once, of an outline that has a reader."""
        return self._once("reading", rows, 1.0).bytes

    @cached_property
    def spreadable(self) -> Spreadable:
        """The denoiser's frozen weights."""
        two, three = (_frozen(self.outline.denoiser(n)[0]) for n in (2, 3))
        block, whole = three - two, self.outline.parts[self.outline.spread].bytes
        return Spreadable(bytes=whole, block=block, outside=whole - self.outline.blocks * block)

    def _once(self, kind: str, batch: int, guidance_scale: float) -> Cost:
        key = kind, batch, guidance_scale
        if key not in self._known:
            outline, train = self.outline, kind == "training"
            if kind == "decoding":
                self._known[key] = _decoding(outline, batch)
            elif kind == "reading":
                self._known[key] = _of_layers(lambda n: _reading(outline, n, batch), outline.read_layers)
            else:
                self._known[key] = _of_layers(
                    lambda n: _call(outline, n, batch, guidance_scale, train=train), outline.blocks
                )
        return self._known[key]


def _of_layers(tally_of: Callable[[int], Tally], layers: int) -> Cost:
    """Of so many, by what two and three take: what a layer adds, it adds each time."""
    two, three = tally_of(2), tally_of(3)
    more = layers - 2
    return Cost(
        flops=two.flops + more * (three.flops - two.flops), bytes=two.peak + more * (three.peak - two.peak)
    )


def _reading(outline: Outline, layers: int, rows: int) -> Tally:
    assert outline.reader is not None
    module, read = outline.reader(layers)

    def work() -> None:
        with torch.no_grad():
            read(rows)

    return tallied(module, work)


def _frozen(module: torch.nn.Module) -> int:
    values = [value for value in module.parameters() if not value.requires_grad]
    return sum(value.numel() * value.element_size() for value in values)


def _decoding(outline: Outline, batch: int) -> Cost:
    module, decode = outline.decoder()

    def work() -> None:
        with torch.no_grad():
            decode(torch.empty(batch, *outline.latent))

    tally = tallied(module, work)
    return Cost(flops=tally.flops, bytes=tally.peak)


def _call(outline: Outline, blocks: int, batch: int, guidance_scale: float, *, train: bool) -> Tally:
    module, velocity = outline.denoiser(blocks)

    def work() -> None:
        (tokens, channels), (length, width) = outline.latent, outline.condition
        dtype = DTYPES[outline.condition_bytes]
        condition = Condition(
            embeds=torch.empty(batch, length, width, dtype=dtype),
            mask=torch.ones(batch, length, dtype=torch.bool),
            null_embeds=torch.empty(1, length, width, dtype=dtype),
            null_mask=torch.ones(1, length, dtype=torch.bool),
            first=torch.empty(batch, outline.first, channels) if outline.first else None,
        )
        with torch.set_grad_enabled(train):
            v = velocity(torch.empty(batch, tokens, channels), torch.ones(batch), condition, guidance_scale)
            if train:
                v.pow(2).mean().backward()

    return tallied(module, work)
