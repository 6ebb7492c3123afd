"""The frame that a clip goes on from: the last one of the preceding scene's own.  Cheap to import.

Shapes: B scenes, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from rlnsp.types import Scene


def require_context_clips(scenes: Sequence[Scene]) -> None:
    """Raise ConfigError for the first scene without a context clip, whose last frame is to be the first."""
    from rlnsp.settings import require

    for scene in scenes:
        require(
            scene.context_clip is not None,
            f"scene {scene.id!r} has no context_clip, whose last frame policy.config.first_frame=context "
            "needs; name a file in its line (or as rlnsp generate --context-clip), or set "
            "policy.config.first_frame=none",
        )


def first_frames(scenes: Sequence[Scene], size: tuple[int, int]) -> np.ndarray:
    """Clips of one frame, uint8 (B, 1, H, W, 3): the last of each scene's ``context_clip``.

    Args:
        scenes: B.
        size: (H, W); frames are scaled to cover it, and cropped around the middle.

    Raises:
        ConfigError: a scene has no context clip, or one that cannot be read.
    """
    import numpy as np

    from rlnsp.dataset.frames import last_frame
    from rlnsp.dataset.video import UnusableVideo
    from rlnsp.manifest import unusable

    require_context_clips(scenes)
    frames = []
    for scene in scenes:
        path = scene.context_clip or Path()
        try:
            frames.append(last_frame(path, size, scene.limits)[None])
        except UnusableVideo as error:
            raise unusable(path, error) from error
    return np.stack(frames)
