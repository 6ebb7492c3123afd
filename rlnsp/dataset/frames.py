"""Frames of a video file as arrays: all of them, the last one, and how one is scaled to a size.

Shapes: F frames, H, W pixels.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from rlnsp.dataset.safety import Limits
from rlnsp.dataset.video import UnusableVideo, decoded, frame_rate, opened


def whole_clip(path: Path, limits: Limits, max_frames: int | None = None) -> tuple[NDArray[np.uint8], float]:
    """All frames (F, H, W, 3) as they are, or the first ``max_frames``; and how many are shown a second.

    Raises:
        UnusableVideo: no frame can be decoded, or it is more than the limits.
    """
    frames: list[NDArray[np.uint8]] = []
    # One for all frames, on one thread: starting either takes longer than converting a small frame.
    to_rgb = VideoReformatter()
    with opened(path, limits) as container:
        fps = frame_rate(container)
        for _, frame in decoded(container, limits):
            picture = to_rgb.reformat(frame, format="rgb24", threads=1)
            frames.append(picture.to_ndarray().astype(np.uint8, copy=False))
            if frames[-1].shape != frames[0].shape:
                raise UnusableVideo("broken", "has frames of more than one size")
            if len(frames) * frames[0].nbytes > limits.max_clip_mb * 1e6:
                raise UnusableVideo(
                    "too long", f"is longer in memory than max_clip_mb {limits.max_clip_mb:g}"
                )
            if max_frames is not None and len(frames) == max_frames:
                break
    if not frames:
        raise UnusableVideo("broken", "has no frame that can be decoded")
    return np.stack(frames), fps


def last_frame(path: Path, size: tuple[int, int], limits: Limits) -> NDArray[np.uint8]:
    """The last frame, scaled to cover ``size`` (H, W) and cropped around the middle; (H, W, 3).

    Raises:
        UnusableVideo: as ``whole_clip``.
    """
    last = None
    with opened(path, limits) as container:
        for _, last in decoded(container, limits):  # noqa: B007
            pass
        if last is None:
            raise UnusableVideo("broken", "has no frame that can be decoded")
        return Scaled([size], float(container.streams.video[0].sample_aspect_ratio or 1))(last)


def nearest_shape(height: float, width: float, shapes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Of (H, W) shapes the one whose aspect ratio is nearest, in logarithms; of equals the first."""
    aspect = math.log(height / width)
    return min(shapes, key=lambda shape: abs(math.log(shape[0] / shape[1]) - aspect))


class Scaled:
    """Frames scaled to cover the shape nearest to the first one's, and cropped around the middle."""

    def __init__(self, shapes: Sequence[tuple[int, int]], pixel_aspect: float) -> None:
        self.shapes, self.pixel_aspect = shapes, pixel_aspect
        """Pixels may be shown wider than they are high."""
        self.shape: tuple[int, int] | None = None
        self._to_rgb = VideoReformatter()
        self._last: tuple[av.VideoFrame, NDArray[np.uint8]] | None = None

    def __call__(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """(H, W, 3)."""
        if self._last is not None and self._last[0] is frame:
            return self._last[1]  # shown for more than one moment
        wide = frame.width * self.pixel_aspect
        if self.shape is None:
            self.shape = nearest_shape(frame.height, wide, self.shapes)
        height, width = self.shape
        scale = max(height / frame.height, width / wide)
        full = max(height, round(frame.height * scale)), max(width, round(wide * scale))
        picture = self._to_rgb.reformat(
            frame, format="rgb24", threads=1, height=full[0], width=full[1], interpolation="BICUBIC"
        )
        top, left = (full[0] - height) // 2, (full[1] - width) // 2
        cropped = picture.to_ndarray()[top : top + height, left : left + width].astype(np.uint8)
        self._last = frame, cropped
        return cropped
