"""True clips: contexts of all kinds, what was drawn, and what is left of it after a codec or a blur."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlnsp.manifest import read_clip, write_clip
from rlnsp.world import FPS, language, motion, rendering
from rlnsp.world.events import Event, sample_events


@dataclass(frozen=True, kw_only=True)
class TrueClips:
    """Rows of events, contexts, futures and frames."""

    events: list[Event]
    contexts: list[str]
    futures: list[motion.Future]
    frames: NDArray[np.uint8]


def make_true_clips(n: int, seed: int) -> TrueClips:
    """``n`` clips of all kinds, half of them of held-out compositions."""
    rng = np.random.default_rng(seed)
    events = [*sample_events("train", n // 2, rng), *sample_events("heldout", n - n // 2, rng)]
    futures = [motion.future(event, rng) for event in events]
    return TrueClips(
        events=events,
        contexts=[language.describe(event, rng) for event in events],
        futures=futures,
        frames=np.stack([rendering.render(future) for future in futures]),
    )


def encoded(frames: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    """Clips (B, F, H, W, 3) as an mp4 file at ``path`` gives them back."""
    clips = []
    for clip in frames:
        write_clip(path, clip, FPS)
        clips.append(read_clip(path)[0])
    return np.stack(clips)


def blurred(frames: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Clips as an autoencoder leaves them: edges softened, flat areas wavering."""
    soft = frames.astype(np.float32)
    for axis in (2, 3):
        soft = 0.6 * soft + 0.2 * (np.roll(soft, 1, axis) + np.roll(soft, -1, axis))
    return (soft + rng.normal(0, 4, soft.shape)).clip(0, 255).astype(np.uint8)
