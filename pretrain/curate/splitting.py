"""Where the scenes of a video begin and end."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.curate.settings import ScenesConfig
from pretrain.sampling import Part, small_frames
from rlnsp.dataset.safety import Limits
from rlnsp.dataset.video import UnusableVideo

if TYPE_CHECKING:
    from scenedetect import SceneDetector

TICK = Fraction(1, 1_000_000)
"""Seconds: the unit of times given to the detector."""
NOMINAL_RATE = 25.0
"""Frames per second.  The detector wants one; it goes by the times, which it is given with each frame."""


def find_scenes(path: Path, config: ScenesConfig, limits: Limits) -> list[Part]:
    """The scenes of a video, in order; a video without a cut is one.

    Raises:
        UnusableVideo: broken, or more than the limits.
    """
    # PySceneDetect would open the file itself, whatever is in it: its detectors are given frames instead.
    from scenedetect.common import FrameTimecode, Timecode

    detector = _detector(config)
    cuts: list[float] = []
    last = None
    end = 0.0
    for seconds, lasts, frame in small_frames(path, config.height, limits):
        last = FrameTimecode(Timecode(round(seconds / TICK), TICK), fps=NOMINAL_RATE)
        end = seconds + lasts
        if detector is not None:
            cuts += [cut.seconds for cut in detector.process_frame(last, frame)]
    if last is None:
        raise UnusableVideo("broken", "has no frame that can be decoded")
    if detector is not None:
        cuts += [cut.seconds for cut in detector.post_process(last)]
    edges = [0.0, *cuts, end]
    return [Part(start=start, end=stop) for start, stop in zip(edges, edges[1:], strict=False)]


def _detector(config: ScenesConfig) -> SceneDetector | None:
    from scenedetect import AdaptiveDetector, ContentDetector

    if config.detector == "none":
        return None
    if config.detector == "content":
        return ContentDetector(threshold=config.threshold, min_scene_len=config.min_seconds)
    return AdaptiveDetector(adaptive_threshold=config.threshold, min_scene_len=config.min_seconds)
