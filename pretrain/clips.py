"""Video clips of a manifest, in memory: what the stages of the world's size train on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlnsp.manifest import ManifestError, read_clip, read_manifest
from rlnsp.types import Scene


@dataclass(frozen=True, kw_only=True)
class Clips:
    """Scenes and their clips, row by row."""

    scenes: Sequence[Scene]
    frames: NDArray[np.uint8]
    """(rows, F, H, W, 3)."""
    fps: float


def read_clips(manifest: Path | str, split: str, shape: tuple[int, int, int], fps: float) -> Clips:
    """Every clip of a split.

    Args:
        manifest: the data set; see ``rlnsp.manifest``.
        split: 'train' or 'heldout'.
        shape: (F, H, W) that every clip must have.
        fps: That every clip must have.

    Raises:
        ManifestError: a scene without a clip, or a clip of another shape or rate.
    """
    scenes = read_manifest(manifest, split)
    frames = np.empty((len(scenes), *shape, 3), np.uint8)
    for row, scene in enumerate(scenes):
        if scene.video is None:
            raise ManifestError(f"{manifest}: scene {scene.id!r} has no video; this stage trains on clips")
        clip, rate = read_clip(scene.video, max_frames=shape[0] + 1)
        if clip.shape[:3] != shape or abs(rate - fps) > 0.01:
            got = f"{clip.shape[0]} frames of {clip.shape[1]}x{clip.shape[2]} at {rate:g} fps"
            want = f"{shape[0]} frames of {shape[1]}x{shape[2]} at {fps:g} fps"
            raise ManifestError(
                f"{scene.video}: has {got}; this policy takes {want}; cut and scale it, or drop its line"
            )
        frames[row] = clip
    return Clips(scenes=scenes, frames=frames, fps=fps)
