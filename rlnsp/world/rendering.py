"""Draws a future: anti-aliased shapes on a wall and a floor."""

import numpy as np
from numpy.typing import NDArray

from rlnsp.world.events import COLOURS
from rlnsp.world.motion import FLOOR, FRAMES, SIZE, Future, Item

WALL_GREY, FLOOR_GREY, STROKE_GREY = 212.0, 148.0, 110.0

_Y, _X = np.mgrid[0:SIZE, 0:SIZE] + 0.5


def render(future: Future) -> NDArray[np.uint8]:
    """(F, H, W, 3) uint8."""
    grey = np.where(_Y < FLOOR, WALL_GREY, FLOOR_GREY)
    canvas = np.broadcast_to(grey[None, :, :, None], (FRAMES, SIZE, SIZE, 3)).copy()
    for item in future.items:
        cover = coverage(item)[..., None]
        colour = np.asarray(COLOURS.get(item.colour, (STROKE_GREY,) * 3), np.float64)
        canvas += cover * (colour - canvas)
    return np.rint(canvas * future.light[:, None, None, None]).astype(np.uint8)


def coverage(item: Item) -> NDArray[np.float64]:
    """(F, H, W) in [0, 1]: the share of each pixel that the item covers, from its signed distance."""
    dx = np.abs(_X - item.x[:, None, None])
    dy = np.abs(_Y - item.y[:, None, None])
    half_w, half_h = item.width[:, None, None] / 2, item.height[:, None, None] / 2
    if item.shape == "circle":
        radius = np.hypot(dx / half_w, dy / half_h)
        cover = np.clip(0.5 + (1 - radius) * np.minimum(half_w, half_h), 0, 1)
    elif item.shape == "diamond":
        cover = np.clip(0.5 + (1 - dx / half_w - dy / half_h) * np.minimum(half_w, half_h) * 0.7, 0, 1)
    else:
        cover = np.clip(0.5 + half_w - dx, 0, 1) * np.clip(0.5 + half_h - dy, 0, 1)
    return cover * item.opacity[:, None, None]
