"""Scenes for training and for evaluation: of the embedded world, or of manifests."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from rlnsp.manifest import ManifestError, read_clip, read_manifest
from rlnsp.randomness import Randomness
from rlnsp.settings import ConfigError, DataConfig
from rlnsp.types import Scene
from rlnsp.world import FRAMES, SIZE, UnknownContext, futures
from rlnsp.world import scenes as world_scenes
from rlnsp.world.language import parse

WORLD = "world"
WORLD_POOL = 4096
"""Training scenes of the embedded world that a run draws from; they are text, made in a moment."""
NUM_FUTURES = 8
"""True next scenes made for a scene of the embedded world; a manifest's scene has one."""


def train_scenes(data: DataConfig, seed: int) -> list[Scene]:
    """Every scene that a run may train on."""
    if data.train == WORLD:
        return world_scenes("train", WORLD_POOL, seed)
    return read_manifest(data.train, split="train", limits=data.limits)


def heldout_scenes(data: DataConfig, n: int, seed: int) -> list[Scene]:
    """The first ``n`` scenes to evaluate on: of a manifest those of split 'heldout', or else all."""
    if data.heldout == WORLD:
        return world_scenes("heldout", n, seed)
    scenes = read_manifest(data.heldout, limits=data.limits)
    heldout = [scene for scene in scenes if scene.split == "heldout"]
    if not heldout and data.heldout == data.train:
        raise ManifestError(
            f"{data.heldout}: data.train and data.heldout are the same manifest, and no line of it has "
            "the split 'heldout'; mark some, or give another manifest"
        )
    return (heldout or scenes)[:n]


def true_clips(scene: Scene, n: int, shape: tuple[int, ...] | None = None) -> NDArray[np.uint8] | None:
    """Clips that may follow a scene, (n, F, H, W, 3), or fewer: its own video, or else the embedded world's.

    None where neither is known, or it is not of ``shape`` (F, H, W, 3), where one is given.
    """
    if scene.video is not None:
        clip = read_clip(scene.video, limits=scene.limits)[0]
        return clip[None] if shape in {None, clip.shape} else None
    if shape not in {None, (FRAMES, SIZE, SIZE, 3)}:
        return None  # before any is drawn, which takes longer than a small policy's own
    try:
        return futures(scene.context, n, seed=0)
    except UnknownContext:
        return None


def has_true_clips(scene: Scene) -> bool:
    """``true_clips`` knows one; none is read or made."""
    try:
        return scene.video is not None or parse(scene.context) is not None
    except UnknownContext:
        return False


def distances_to_nearest(clips: Sequence[NDArray[np.uint8]], true: NDArray[np.uint8]) -> list[float]:
    """Mean absolute difference of pixels, in [0, 1], of each clip (F, H, W, 3) to the nearest of ``true``.

    NaN where the true clips (n, F, H, W, 3) are of another size.
    """
    return [
        float(np.abs(true - clip.astype(np.int16)).mean(axis=(1, 2, 3, 4)).min() / 255)
        if clip.shape == true.shape[1:]
        else np.nan
        for clip in clips
    ]


class SceneOrder:
    """Which scenes each iteration trains on: a new permutation each epoch, no scene twice in one.

    An iteration's scenes follow from its number alone.  What is left of an epoch when it no longer fills an
    iteration is passed over, another part each time.
    """

    def __init__(self, scenes: Sequence[Scene], per_iteration: int, seed: int) -> None:
        if per_iteration > len(scenes):
            raise ConfigError(
                f"trainer.scenes_per_iteration is {per_iteration}, but data.train has {len(scenes)} scenes: "
                "lower it, or give more scenes"
            )
        self.scenes, self.per_iteration, self.seed = scenes, per_iteration, seed

    def __call__(self, iteration: int) -> list[Scene]:
        """The scenes of one iteration, counted from 0."""
        epoch, place = divmod(iteration, len(self.scenes) // self.per_iteration)
        generator = Randomness(seed=self.seed, iteration=epoch).generator("scenes")
        order = torch.randperm(len(self.scenes), generator=generator).tolist()
        start = place * self.per_iteration
        return [self.scenes[row] for row in order[start : start + self.per_iteration]]
