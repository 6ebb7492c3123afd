"""Clips of one size and rate, cut from videos of any: by time, nearest shape, scaled to cover, cropped.

Shapes: F frames, H, W pixels of the clip; h, w of the video.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from rlnsp.dataset.frames import Scaled
from rlnsp.dataset.safety import Limits
from rlnsp.dataset.video import UnusableVideo, decoded, opened

SLACK_S = 1e-3
"""A frame's time is a multiple of the file's unit, seldom of 1 / fps exactly."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What of a video."""

    start: float = 0.0
    """Seconds."""
    end: float = math.inf


WHOLE = Part()


def sample_clip(
    path: Path,
    num_frames: int,
    fps: float,
    shapes: Sequence[tuple[int, int]],
    limits: Limits,
    part: Part = WHOLE,
) -> NDArray[np.uint8]:
    """The first ``num_frames`` of a part of a video, (F, H, W, 3), at ``fps``.

    For each moment k / fps the frame that is shown then, whatever the video's own rate, fixed or not.

    Args:
        path: as a manifest names it.
        num_frames: F.
        fps: of the clip.
        shapes: (H, W) to choose from.
        limits: on the file.
        part: seconds of the video.

    Raises:
        UnusableVideo: broken, too short, or more than the limits.
    """
    wanted = part.start + np.arange(num_frames) / fps
    frames: list[NDArray[np.uint8]] = []
    shown, until = None, part.start
    with opened(path, limits) as container:
        scaled = Scaled(shapes, float(container.streams.video[0].sample_aspect_ratio or 1))
        for seconds, frame in decoded(container, limits, part.start):
            if seconds > part.end - SLACK_S:
                break
            # The one before was shown until now.
            while shown is not None and len(frames) < len(wanted) and wanted[len(frames)] < seconds - SLACK_S:
                frames.append(scaled(shown))
            if len(frames) == len(wanted):
                break
            until = seconds + _duration(frame, container.streams.video[0])
            shown = frame
        last = min(until, part.end)
        while shown is not None and len(frames) < len(wanted) and wanted[len(frames)] < last - SLACK_S:
            frames.append(scaled(shown))
    if len(frames) < len(wanted):
        needs = (len(wanted) - 1) / fps
        raise UnusableVideo(
            "too short", f"is too short: {len(frames)} of {len(wanted)} frames, which take {needs:g} s"
        )
    return np.stack(frames)


def small_frames(path: Path, height: int, limits: Limits) -> Iterator[tuple[float, float, NDArray[np.uint8]]]:
    """(seconds, seconds that it lasts, frame (h, w, 3) as BGR of at most ``height``) of a whole video.

    Raises:
        UnusableVideo: broken, or more than the limits.
    """
    to_bgr = VideoReformatter()
    with opened(path, limits) as container:
        for seconds, frame in decoded(container, limits):
            scale = min(1.0, height / frame.height)
            size = {
                "width": max(1, round(frame.width * scale)),
                "height": max(1, round(frame.height * scale)),
            }
            small = to_bgr.reformat(frame, format="bgr24", threads=1, **size)
            lasts = _duration(frame, container.streams.video[0])
            yield seconds, lasts, small.to_ndarray().astype(np.uint8, copy=False)


def _duration(frame: av.VideoFrame, stream: av.VideoStream) -> float:
    """Seconds that a frame is shown; where the file does not say, as long as the average."""
    unit = float(frame.time_base or stream.time_base or 0)
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    return (frame.duration or 0) * unit or (1 / rate if rate else 0.0)
