"""Reads a clip's pixels, and only those: what is where, in every frame.

Shapes: B clips, F frames, K colours of the world.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlnsp.world.events import COLOURS

MIN_CHROMA = 86.0
"""Norm of a pixel's colour less its grey above which it belongs to a colour of the world; pure ones have 117
to 155.  Where two things touch, their edge mixes to a third colour of at most 81, which must not count."""
MIN_COSINE = 0.86
"""Below this similarity to every colour of the world a pixel is ``strange``."""
MIN_AREA = 10.0
"""Pixels that make a thing; fewer are specks."""

NAMES = tuple(COLOURS)


_PALETTE = np.asarray(list(COLOURS.values()), np.float32)
_CHROMA = _PALETTE - _PALETTE.mean(-1, keepdims=True)
_DIRECTIONS = _CHROMA / np.linalg.norm(_CHROMA, axis=-1, keepdims=True)


@dataclass(frozen=True, kw_only=True)
class Tracks:
    """What the pixels show.  Positions and sizes of a colour that is not there are NaN."""

    area: NDArray
    """(B, F, K) pixels."""
    x: NDArray
    """(B, F, K) pixels, the centre; y grows downwards."""
    y: NDArray
    width: NDArray
    """(B, F, K) pixels: the side of a box whose pixels spread as these do."""
    height: NDArray
    strange: NDArray
    """(B, F) coloured pixels of no colour of the world."""
    light: NDArray
    """(B, F) mean brightness, 0 to 255."""


def track(frames: NDArray) -> Tracks:
    """Measure clips (B, F, H, W, 3) uint8, all at once."""
    clips, num_frames, height, width = frames.shape[:4]
    # A plane a channel: numpy adds up three numbers a pixel many times slower.
    planes = frames.reshape(-1, 3).T.astype(np.float32, order="C")
    grey = (planes[0] + planes[1] + planes[2]) / 3
    light = grey.reshape(clips, num_frames, height * width).mean(-1)
    planes -= grey
    # Most pixels are grey: only the coloured ones are compared with the palette.
    where = np.flatnonzero(planes[0] ** 2 + planes[1] ** 2 + planes[2] ** 2 > MIN_CHROMA**2)
    chroma = np.ascontiguousarray(planes[:, where].T)
    cosine = (chroma @ _DIRECTIONS.T) / np.linalg.norm(chroma, axis=-1, keepdims=True)
    known = cosine.max(-1) > MIN_COSINE
    image, position = np.divmod(where, height * width)
    strange = np.bincount(image[~known], minlength=clips * num_frames)

    y, x = np.divmod(position[known], width)
    x, y = x + 0.5, y + 0.5
    cell = image[known] * len(NAMES) + cosine[known].argmax(-1)

    def total(weights: NDArray | None) -> NDArray:
        return np.bincount(cell, weights, clips * num_frames * len(NAMES)).astype(np.float64)

    area, sx, sy, sxx, syy = (total(weights) for weights in (None, x, y, x * x, y * y))
    with np.errstate(invalid="ignore", divide="ignore"):
        seen = np.where(area >= MIN_AREA, area, np.nan)
        cx, cy = sx / seen, sy / seen
        spread_x, spread_y = (
            np.sqrt(np.maximum(s / seen - c * c, 0) * 12) for s, c in ((sxx, cx), (syy, cy))
        )

    def shaped(value: NDArray) -> NDArray:
        return value.reshape(clips, num_frames, len(NAMES))

    return Tracks(
        area=shaped(area),
        x=shaped(cx),
        y=shaped(cy),
        width=shaped(spread_x),
        height=shaped(spread_y),
        strange=strange.reshape(clips, num_frames),
        light=light,
    )
