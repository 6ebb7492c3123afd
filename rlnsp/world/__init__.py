"""The embedded world: a small simulated world of preceding scenes, true futures and a judge of pixels."""

import numpy as np
from numpy.typing import NDArray

from rlnsp.types import Scene
from rlnsp.world import language, motion, rendering
from rlnsp.world.events import Split, sample_events
from rlnsp.world.language import UnknownContext
from rlnsp.world.motion import FPS, FRAMES, SIZE
from rlnsp.world.tracker import Tracker, Verdict

__all__ = ["FPS", "FRAMES", "SIZE", "Tracker", "UnknownContext", "Verdict", "futures", "scenes"]


def scenes(split: Split, n: int, seed: int) -> list[Scene]:
    """``n`` preceding scenes of a split, in words; the same for the same arguments."""
    rng = np.random.default_rng([seed, split == "heldout"])
    events = sample_events(split, n, rng)
    return [
        Scene(
            id=f"world-{split}-{seed}-{number:05d}",
            context=language.describe(event, rng),
            fps=FPS,
            split=split,
            columns={"kind": event.kind},
        )
        for number, event in enumerate(events)
    ]


def futures(context: str, n: int, seed: int) -> NDArray[np.uint8]:
    """``n`` true clips that may follow a preceding scene: (n, F, H, W, 3).

    Raises:
        UnknownContext: the text is not of this world.
    """
    event, rng = language.parse(context), np.random.default_rng(seed)
    return np.stack([rendering.render(motion.future(event, rng)) for _ in range(n)])
