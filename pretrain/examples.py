"""What stages train on: examples, batches of them, and how several processes read them.

Shapes: B examples of a batch, b of them in this process; N latent tokens, C their channels; Q queries, W
width of the comprehension model; F, H, W frames and pixels, f, h, w those of a preceding scene's clip.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlnsp.dataset.video import UnusableVideo
from rlnsp.distributed import Ranks
from rlnsp.types import Scene

Shape = tuple[int, int, int]
"""(F, H, W): frames and pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One clip to train on."""

    scene: Scene
    shape: Shape
    latents: Tensor
    """(N, C) fp32."""
    hidden: Tensor | None = None
    """(Q, W), what the comprehension model says at the queries, where that is kept."""
    context: NDArray[np.uint8] | None = None
    """(f, h, w, 3), of the preceding scene's own clip the frames that the model reads beside its words."""


class Source(Protocol):
    """Examples by row."""

    def __len__(self) -> int: ...

    def scene(self, row: int) -> Scene:
        """Without its clip."""
        ...

    def load(self, row: int) -> Any:
        """What takes time and needs no model, in any thread.

        Raises:
            UnusableVideo: the clip cannot be used.
        """
        ...

    def example(self, row: int, loaded: Any) -> Example:
        """Of what ``load`` gave."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Examples of one shape: of B in all the b that this process read."""

    scenes: list[Scene]
    """b."""
    shape: Shape
    latents: Tensor | None
    """(b, N, C) fp32; None where b is 0."""
    hidden: Tensor | None
    """(b, Q, W) where it is kept."""
    contexts: list[NDArray[np.uint8] | None]
    """b; as ``Example.context``."""
    here: Tensor
    """(b,) long, rising; which of the B they are."""
    total: int
    """B."""

    def split(self, size: int) -> "list[Batch]":
        """The parts of the whole batch of at most so many, each as far as it is here."""
        return [
            self._part((self.here >= first) & (self.here < first + size), first, size)
            for first in range(0, self.total, size)
        ]

    def _part(self, own: Tensor, first: int, size: int) -> "Batch":
        return replace(
            self.take(own.nonzero().flatten().tolist()),
            here=self.here[own] - first,
            total=min(size, self.total - first),
        )

    def take(self, rows: list[int]) -> "Batch":
        """Of the b those at ``rows``; still of B in all."""
        return Batch(
            scenes=[self.scenes[row] for row in rows],
            shape=self.shape,
            latents=self.latents[rows] if self.latents is not None and len(rows) else None,
            hidden=self.hidden[rows] if self.hidden is not None and len(rows) else None,
            contexts=[self.contexts[row] for row in rows],
            here=self.here[rows],
            total=self.total,
        )


def batch_of(shape: Shape, examples: Sequence[Example | None]) -> Batch:
    """All of one shape, None those of other processes."""
    own = [one for one in examples if one is not None]
    hidden = [one.hidden for one in own if one.hidden is not None]
    return Batch(
        scenes=[one.scene for one in own],
        shape=shape,
        latents=torch.stack([one.latents for one in own]) if own else None,
        hidden=torch.stack(hidden) if hidden else None,
        contexts=[one.context for one in own],
        here=torch.tensor([place for place, one in enumerate(examples) if one is not None], dtype=torch.long),
        total=len(examples),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Turn:
    """A row that one of the processes read."""

    row: int
    shape: Shape | None
    """None where it cannot be used."""
    example: Example | None = None
    """Where this process read it."""


def read_in_turn(
    rows: Sequence[int],
    read: Callable[[int], Example],
    ranks: Ranks,
    skip: Callable[[int, UnusableVideo], None],
) -> list[Turn]:
    """Rows, of which process r reads the r-th; all know of each what shape it has, or that it has none.

    Args:
        rows: At most as many as there are processes.
        read: Of a row.
        ranks: The processes.
        skip: Gets those that cannot be used.
    """
    example: Example | None = None
    said: dict[str, Any] = {}
    if ranks.rank < len(rows):
        try:
            example = read(rows[ranks.rank])
            said = {"shape": list(example.shape)}
        except UnusableVideo as error:
            said = {"kind": error.kind, "why": str(error)}
    turns = []
    for rank, (row, one) in enumerate(zip(rows, ranks.exchange(said), strict=False)):
        if "shape" in one:
            frames, height, width = one["shape"]
            own = example if rank == ranks.rank else None
            turns.append(Turn(row=row, shape=(frames, height, width), example=own))
        else:
            skip(row, UnusableVideo(one["kind"], one["why"]))
            turns.append(Turn(row=row, shape=None))
    return turns
