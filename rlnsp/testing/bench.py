"""Clips to try a reward on: true next scenes, and clips whose fault is known."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rlnsp.data import true_clips
from rlnsp.declaration import Fault
from rlnsp.settings import require
from rlnsp.types import Sample, Scene
from rlnsp.world import FPS

NUM_TRUE = 2
"""True clips a scene, where as many are known."""
NOISE = 48
"""Standard deviation of the noise on noisy clips, of 255."""
LATENT_SHAPE = (16, 8)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Whole groups, a scene's samples together."""

    samples: list[Sample]
    faults: list[Fault | None] | None
    """Of each sample, None if it is a true next scene.  None altogether where nothing is known of them."""

    def __post_init__(self) -> None:
        assert self.faults is None or len(self.faults) == len(self.samples)


def make_bench(scenes: Sequence[Scene]) -> Bench:
    """A group a scene: its true clips, another scene's, one that stands still, and one under noise.

    Latents are drawn from a normal distribution: they belong to no clip.

    Raises:
        ConfigError: there are fewer than two scenes with a true clip of the first one's size.
    """
    rng = np.random.default_rng(0)
    known = [(scene, clips) for scene in scenes if (clips := true_clips(scene, NUM_TRUE)) is not None]
    known = [(scene, clips) for scene, clips in known if clips.shape[1:] == known[0][1].shape[1:]]
    require(
        len(known) >= 2,
        f"only {len(known)} of {len(scenes)} scenes have a true next scene, of one size; give at least two",
    )
    samples: list[Sample] = []
    faults: list[Fault | None] = []
    for number, (scene, true) in enumerate(known):
        other = _of_another_context(scene, known[number + 1 :] + known[:number])
        noisy = np.clip(true[0] + rng.normal(0, NOISE, true[0].shape), 0, 255).astype(np.uint8)
        made: list[tuple[Fault | None, NDArray[np.uint8]]] = [(None, clip) for clip in true]
        made += [("shuffled", other), ("static", np.repeat(true[0][:1], len(true[0]), 0)), ("noisy", noisy)]
        for fault, clip in made:
            latents = torch.from_numpy(rng.standard_normal(LATENT_SHAPE, np.float32))
            samples.append(Sample(scene=scene, frames=clip.copy(), fps=scene.fps or FPS, latents=latents))
            faults.append(fault)
    return Bench(samples=samples, faults=faults)


def _of_another_context(scene: Scene, others: Sequence[tuple[Scene, NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    found = [clips[0] for other, clips in others if other.context != scene.context]
    require(bool(found), f"every scene has the context {scene.context!r}; give scenes of several contexts")
    return found[0]
