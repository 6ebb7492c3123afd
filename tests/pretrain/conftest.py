"""Clips of noise, small enough for the tiny policy, with texts of their own."""

from collections.abc import Callable

import numpy as np
import pytest

from pretrain.clips import Clips
from rlnsp.types import Scene
from tests.policies.tiny import GEOMETRY

MakeClips = Callable[..., Clips]


@pytest.fixture
def make_clips() -> MakeClips:
    def make(
        n: int = 6,
        seed: int = 0,
        *,
        frames: int = GEOMETRY.num_frames,
        height: int = GEOMETRY.height,
        width: int = GEOMETRY.width,
        word: str = "a",
    ) -> Clips:
        rng = np.random.default_rng(seed)
        colours = rng.integers(0, 256, (n, 1, 1, 1, 3))
        shape = n, frames, height, width, 3
        scenes = [
            Scene(
                id=f"scene-{row}",
                context=f"before {word} {row}",
                caption=f"then {word} {row}",
                columns={"kind": f"kind-{row % 2}"},
            )
            for row in range(n)
        ]
        noise = rng.integers(-20, 20, shape)
        return Clips(scenes=scenes, frames=(colours + noise).clip(0, 255).astype(np.uint8), fps=GEOMETRY.fps)

    return make
