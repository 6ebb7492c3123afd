"""Which frames of a clip a model is shown, and how large; frames as PNG files in data URIs."""

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rlnsp.settings import require


@dataclass(frozen=True, kw_only=True)
class FramesConfig:
    """How a clip is sampled."""

    fps: float = 2.0
    """Frames of a second of the clip; the first and the last are always among them."""
    max_frames: int = 16
    """Of a longer clip as many, evenly spread."""
    max_edge: int = 512
    """Pixels; a frame whose longer edge is larger is scaled down to it."""

    def __post_init__(self) -> None:
        require(self.fps > 0, f"frames.fps must be above 0; got {self.fps}")
        require(self.max_frames >= 2, f"frames.max_frames must be at least 2; got {self.max_frames}")
        require(self.max_edge >= 1, f"frames.max_edge must be at least 1; got {self.max_edge}")


def sampled(frames: NDArray[np.uint8], fps: float, config: FramesConfig) -> NDArray[np.uint8]:
    """Of a clip (F, H, W, 3) at ``fps``, what is shown of it: (n, h, w, 3).

    Raises:
        ValueError: the clip has no frames, or is not of that shape and type.
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not frames.size or fps <= 0:
        raise ValueError(
            "a clip must be uint8 of shape (F, H, W, 3) at fps > 0; "
            f"got {frames.dtype} {frames.shape} at {fps}"
        )
    last = len(frames) - 1
    # The small number is for rates that do not divide in binary, such as 0.1.
    n = min(config.max_frames, len(frames), math.floor(last / fps * config.fps + 1e-6) + 1)
    index = np.linspace(0, last, max(n, min(2, len(frames)))).round().astype(int)
    height, width = frames.shape[1:3]
    scale = config.max_edge / max(height, width)
    if scale >= 1:
        return frames[index]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    smaller = [Image.fromarray(frames[i]).resize(size, Image.Resampling.LANCZOS) for i in index]
    return np.stack([np.asarray(image) for image in smaller])


def data_uri(frame: NDArray[np.uint8]) -> str:
    """One frame (H, W, 3), without loss, as a PNG."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
