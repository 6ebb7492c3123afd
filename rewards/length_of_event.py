"""How near an event's length is to a wished one: a reward by rule, for the embedded world."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlnsp.declaration import declares
from rlnsp.types import Sample, Scene
from rlnsp.world.language import parse
from rlnsp.world.tracking import track

MOVED_PX = 1.25
"""Of a thing's place or size, from a frame to the next; decoding and the codec make them tremble by less."""
DIMMED = 6.0
"""Of the picture's mean brightness, of 255."""


@declares(range=(0, 1), tells=("static",))
class LengthOfEvent:
    """1 where the event takes the wished time, falling to 0 where it is out by as much or more.  In [0, 1].

    An event begins before the first step from frame to frame in which the world's tracker sees a thing move,
    grow, come or go, or the light change, and ends after the last; a still clip has length 0.  Nothing is
    said of what happens: beside ``nsp_reward`` it sets the pace, alone it is hacked.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What is wished."""

        seconds: float
        """From the event's beginning to its end.  Of true clips 0.25 (a lamp) to 1 (a slow melting)."""

        def __post_init__(self) -> None:
            if self.seconds <= 0:
                raise ValueError(f"seconds must be above 0; got {self.seconds}")

    def __init__(self, config: Config) -> None:
        self.seconds = config.seconds

    def check_scenes(self, scenes: Sequence[Scene]) -> None:
        """Raise ValueError for the first scene that is not of the embedded world."""
        for scene in scenes:
            try:
                parse(scene.context)
            except ValueError as error:
                raise ValueError(f"scene {scene.id!r}: {error}") from error

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        """One score a sample."""
        steps = num_steps(np.stack([sample.frames for sample in samples]))
        return [
            max(0.0, 1 - abs(number / sample.fps - self.seconds) / self.seconds)
            for number, sample in zip(steps, samples, strict=True)
        ]


def num_steps(frames: NDArray[np.uint8]) -> list[int]:
    """How many steps from frame to frame the event in each clip of (B, F, H, W, 3) takes, pauses included."""
    seen = track(frames)
    # A thing that is not there has no place: its coming and going is a change too.
    there = ~np.isnan(seen.x)
    changed = (there[:, 1:] != there[:, :-1]).any(-1)
    for values in (seen.x, seen.y, seen.width, seen.height):
        with np.errstate(invalid="ignore"):
            changed |= (np.abs(np.diff(values, axis=1)) > MOVED_PX).any(-1)
    changed |= np.abs(np.diff(seen.light, axis=1)) > DIMMED
    found = [np.flatnonzero(one) for one in changed]
    return [int(steps[-1] - steps[0] + 1) if len(steps) else 0 for steps in found]
