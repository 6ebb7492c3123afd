"""The exact judge of the embedded world: captions a clip from its pixels, then decides on its consistency."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rlnsp.world.captioning import caption
from rlnsp.world.judging import judge
from rlnsp.world.language import parse
from rlnsp.world.motion import FRAMES, SIZE
from rlnsp.world.tracking import Tracks, track


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the judge says of one clip."""

    caption: str
    checks: dict[str, bool] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Causally consistent: every named check holds."""
        return all(self.checks.values())

    @property
    def soft(self) -> float:
        """The share of the checks that hold, in [0, 1]."""
        return sum(self.checks.values()) / len(self.checks)

    @property
    def failed(self) -> list[str]:
        """The names of the checks that do not hold."""
        return [name for name, holds in self.checks.items() if not holds]


class Tracker:
    """Reads pixels, and only those."""

    def caption(self, frames: NDArray) -> list[str]:
        """A sentence for each clip of (B, 9, 64, 64, 3) uint8.

        Raises:
            ValueError: clips of another shape or type.
        """
        tracks = _track(frames)
        return [caption(tracks, clip) for clip in range(len(frames))]

    def judge(self, contexts: Sequence[str], frames: NDArray) -> list[Verdict]:
        """A verdict for each preceding scene and its clip; frames as for ``caption``.

        Raises:
            UnknownContext: a context is not a sentence of this world.
            ValueError: clips of another shape or type, or not one a context.
        """
        events = [parse(context) for context in contexts]
        if len(events) != len(frames):
            raise ValueError(f"Tracker.judge: {len(events)} contexts for {len(frames)} clips; give one each")
        tracks = _track(frames)
        return [
            Verdict(caption=caption(tracks, clip), checks=judge(event, tracks, clip))
            for clip, event in enumerate(events)
        ]


def _track(frames: NDArray) -> Tracks:
    if frames.shape[1:] != (FRAMES, SIZE, SIZE, 3) or frames.dtype != np.uint8:
        raise ValueError(
            f"Tracker: clips must be uint8 of shape (B, {FRAMES}, {SIZE}, {SIZE}, 3), the embedded world's; "
            f"got {frames.dtype} {frames.shape}; choose another judge for other videos"
        )
    return track(frames)
