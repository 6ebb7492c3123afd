"""The clips that may follow a preceding scene: where everything is in every frame.

Pixels, with y down; times in frames.  Everything is laid out for a direction of right and mirrored for left.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rlnsp.world.events import Event, Kind

SIZE = 64
FRAMES = 9
FPS = 8.0
FLOOR = 54.0
RADIUS = 5.5
BOX = 11.0
SHELF_TOP, SHELF_THICK, SHELF_EDGE = 27.0, 6.0, 30.0
WALL_LEFT, WALL_WIDTH, WALL_TOP = 53.0, 7.0, 18.0
VASE_WIDTH, VASE_HEIGHT = 9.0, 12.0
ICE_WIDTH, ICE_HEIGHT, PUDDLE_WIDTH, PUDDLE_HEIGHT = 14.0, 18.0, 30.0, 3.5
HEATER_WIDTH, HEATER_HEIGHT = 9.0, 14.0
LAMP_X, LAMP_Y, LAMP_RADIUS, FOOT_WIDTH, FOOT_HEIGHT = 46.0, 25.0, 7.0, 16.0, 6.0
BALLOON_WIDTH, BALLOON_HEIGHT = 12.0, 14.0
STAR_X, STAR_Y, STAR_SIZE = 7.0, 8.0, 12.0
GRAVITY = 7.0
TIME = np.arange(FRAMES, dtype=np.float64)

Array = NDArray[np.float64]
Shape = Literal["circle", "box", "diamond", "stroke"]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One drawn thing over time; every array is (F,)."""

    shape: Shape
    colour: str
    """A colour of the world, or ``grey``."""
    x: Array
    y: Array
    width: Array
    height: Array
    opacity: Array


@dataclass(frozen=True, kw_only=True)
class Future:
    """One clip that may follow: what to draw, how bright the room is, and what its caption needs."""

    items: tuple[Item, ...]
    light: Array
    """(F,) in [0, 1]."""
    direction: str
    bounces: bool = False


def future(event: Event, rng: np.random.Generator) -> Future:
    """A random one of the clips that may follow ``event``."""
    sign = event.sign or int(rng.choice([-1, 1]))
    made = _MAKERS[event.kind](event, rng)
    items = [_mirrored(item) if sign < 0 else item for item in made.items]
    if event.bystander is not None:
        x = STAR_X if event.bystander_side == "left" else SIZE - STAR_X
        items.append(_item("diamond", event.bystander, x, STAR_Y, STAR_SIZE, STAR_SIZE))
    direction = "right" if sign > 0 else "left"
    return Future(items=tuple(items), light=made.light, direction=direction, bounces=made.bounces)


def _item(shape: Shape, colour: str, x, y, width, height, opacity: Array | float = 1.0) -> Item:
    whole = [
        np.broadcast_to(np.asarray(value, np.float64), (FRAMES,)) for value in (x, y, width, height, opacity)
    ]
    return Item(
        shape=shape, colour=colour, **dict(zip(("x", "y", "width", "height", "opacity"), whole, strict=True))
    )


def _mirrored(item: Item) -> Item:
    return _item(item.shape, item.colour, SIZE - item.x, item.y, item.width, item.height, item.opacity)


def _made(*items: Item, light: Array | float = 1.0, bounces: bool = False) -> Future:
    return Future(items=items, light=np.broadcast_to(light, (FRAMES,)), direction="", bounces=bounces)


def _when(event: Event, rng: np.random.Generator, fast: float, slow: float, spread: float = 0.4) -> float:
    return (fast if event.speed == "fast" else slow) + rng.uniform(-spread, spread)


def _push(event: Event, rng: np.random.Generator) -> Future:
    contact, gap = _when(event, rng, 2.6, 5.0), rng.uniform(15, 18)
    box = rng.uniform(38, 41)
    touch = box - BOX / 2 - RADIUS
    ball = np.minimum(touch - gap + gap / contact * TIME, touch)
    slide = (13 if event.speed == "fast" else 9) * (1 - np.exp(-np.maximum(TIME - contact, 0) / 1.3))
    return _made(
        _item("circle", event.actor, ball, FLOOR - RADIUS, 2 * RADIUS, 2 * RADIUS),
        _item("box", event.other, box + slide, FLOOR - BOX / 2, BOX, BOX),
    )


def _bounce(event: Event, rng: np.random.Generator) -> Future:
    contact, gap = _when(event, rng, 2.6, 5.0), rng.uniform(16, 20)
    speed, touch = gap / contact, WALL_LEFT - RADIUS
    ball = touch - speed * np.where(contact > TIME, contact - TIME, 0.9 * (TIME - contact))
    return _made(
        _item("circle", event.actor, ball, FLOOR - RADIUS, 2 * RADIUS, 2 * RADIUS),
        _wall(event.other),
    )


def _wall(colour: str) -> Item:
    return _item(
        "box", colour, WALL_LEFT + WALL_WIDTH / 2, (FLOOR + WALL_TOP) / 2, WALL_WIDTH, FLOOR - WALL_TOP
    )


def _shelf(colour: str) -> Item:
    return _item("box", colour, SHELF_EDGE / 2 - 1, SHELF_TOP + SHELF_THICK / 2, SHELF_EDGE + 2, SHELF_THICK)


def _drop(event: Event, rng: np.random.Generator, half_height: float) -> tuple[Array, Array, float, float]:
    """x, y, the landing time and the drop's height of a thing that leaves the shelf."""
    leave, start = _when(event, rng, 1.8, 4.0), rng.uniform(13, 17)
    speed = (SHELF_EDGE - start) / leave
    drop = FLOOR - SHELF_TOP
    land = leave + (2 * drop / GRAVITY) ** 0.5
    x = start + speed * np.minimum(TIME, leave) + min(speed, 5.0) * np.clip(TIME - leave, 0, land - leave)
    y = SHELF_TOP - half_height + np.minimum(0.5 * GRAVITY * np.maximum(TIME - leave, 0) ** 2, drop)
    return x, y, land, drop


def _fall(event: Event, rng: np.random.Generator) -> Future:
    x, y, land, _ = _drop(event, rng, RADIUS)
    bounces = bool(rng.random() < 0.5)
    if bounces:
        after, speed = np.maximum(TIME - land, 0), 10.0
        y = y - np.maximum(speed * after - 0.5 * GRAVITY * after**2, 0)
    return _made(
        _item("circle", event.actor, x, y, 2 * RADIUS, 2 * RADIUS),
        _shelf(event.other),
        bounces=bounces,
    )


def _shatter(event: Event, rng: np.random.Generator) -> Future:
    x, y, land, _ = _drop(event, rng, VASE_HEIGHT / 2)
    whole = (land > TIME).astype(np.float64)
    vase = _item("box", event.actor, x, y, VASE_WIDTH, VASE_HEIGHT, whole)
    spread = 1 - 0.4 * np.exp(-np.maximum(TIME - land, 0) / 0.6)
    pieces = [
        _item("box", event.actor, x + offset * spread, FLOOR - 2.5, 5.0, 5.0, 1 - whole)
        for offset in (-13.0, -6.5, 0.0, 6.5, 13.0)
    ]
    return _made(vase, *pieces, _shelf(event.other))


def _melt(event: Event, rng: np.random.Generator) -> Future:
    progress = np.minimum(TIME / _when(event, rng, 4.0, 8.0), 1.0)
    height = ICE_HEIGHT + (PUDDLE_HEIGHT - ICE_HEIGHT) * progress
    width = ICE_WIDTH + (PUDDLE_WIDTH - ICE_WIDTH) * progress
    ice = _item("box", event.actor, rng.uniform(26, 29), FLOOR - height / 2, width, height)
    return _made(ice, _item("box", event.other, 54.0, FLOOR - HEATER_HEIGHT / 2, HEATER_WIDTH, HEATER_HEIGHT))


def _light(event: Event, rng: np.random.Generator) -> Future:
    on = np.clip(TIME - _when(event, rng, 2.0, 5.0) + 0.5, 0, 1)
    x = LAMP_X + rng.uniform(-2, 2)
    foot_y = FLOOR - FOOT_HEIGHT / 2
    return _made(
        _item("stroke", "grey", x, (LAMP_Y + FLOOR) / 2, 2.0, FLOOR - LAMP_Y),
        _item("box", event.other, x, foot_y, FOOT_WIDTH, FOOT_HEIGHT),
        _item("circle", event.actor, x, LAMP_Y, 2 * LAMP_RADIUS, 2 * LAMP_RADIUS),
        light=0.12 + 0.88 * on,
    )


def _rise(event: Event, rng: np.random.Generator) -> Future:
    x, start = rng.uniform(30, 34), FLOOR - BOX - BALLOON_HEIGHT / 2 - 1
    speed, drift = (5.2, 1.4) if event.speed == "fast" else (2.1, 1.4)
    y = np.maximum(start - speed * rng.uniform(0.93, 1.07) * TIME, BALLOON_HEIGHT / 2 + 1)
    return _made(
        _item("circle", event.actor, x + drift * np.minimum(TIME, 7), y, BALLOON_WIDTH, BALLOON_HEIGHT),
        _item("box", event.other, x, FLOOR - BOX / 2, BOX, BOX),
    )


_MAKERS: dict[Kind, Callable[[Event, np.random.Generator], Future]] = {
    "push": _push,
    "bounce": _bounce,
    "fall": _fall,
    "shatter": _shatter,
    "melt": _melt,
    "light": _light,
    "rise": _rise,
}
