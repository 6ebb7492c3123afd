"""Decides, from tracks, whether a clip is a causally consistent future of a preceding scene: named checks.

Thresholds are pixels and frames; they hold for every true clip after video encoding and reject near misses.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlnsp.world.events import Event, Kind
from rlnsp.world.motion import FLOOR, SHELF_EDGE, SIZE, STAR_X, STAR_Y
from rlnsp.world.tracking import NAMES, Tracks

Checks = dict[str, bool]

DARK, BRIGHT = 60.0, 180.0
STRAY_AREA = 30.0
"""Pixels of colours that are not in the scene: where two things touch, their edge has a mixed colour."""


@dataclass(frozen=True)
class Thing:
    """One colour's track in one clip, seen as if the event's direction were right."""

    area: NDArray
    x: NDArray
    y: NDArray
    width: NDArray
    height: NDArray

    def holds(
        self, width: tuple[float, float], height: tuple[float, float], frames: slice = slice(None)
    ) -> bool:
        """True if its width and height stay within bounds in ``frames``; False where it is not there."""
        w, h = self.width[frames], self.height[frames]
        return bool(np.all((w >= width[0]) & (w <= width[1]) & (h >= height[0]) & (h <= height[1])))

    def moves_at_most(self, pixels: float, frames: slice = slice(None)) -> bool:
        """True if, within ``frames``, it is there and never further than ``pixels`` from where it was."""
        x, y = self.x[frames], self.y[frames]
        return bool(np.all(np.hypot(x - x[:1], y - y[:1]) <= pixels))


def judge(event: Event, tracks: Tracks, clip: int) -> Checks:
    """Every check of ``event``'s kind on clip number ``clip``; consistent means that all of them hold."""
    sign = event.sign or _drift(tracks, clip, event.actor)

    def thing(colour: str) -> Thing:
        k = NAMES.index(colour)
        x = tracks.x[clip, :, k] if sign > 0 else SIZE - tracks.x[clip, :, k]
        rest = (getattr(tracks, name)[clip, :, k] for name in ("y", "width", "height"))
        return Thing(tracks.area[clip, :, k], x, *rest)

    actor, other, light = thing(event.actor), thing(event.other), tracks.light[clip]
    with np.errstate(invalid="ignore"):
        checks = (
            _light(event, actor, other, light)
            if event.kind == "light"
            else {"bright": bool(light.min() > 150)}
        )
        if event.kind != "light":
            checks |= _CHECKS[event.kind](event, actor, other)
        lit = light > BRIGHT
        checks["nothing else"] = _stray(event, tracks, clip) <= STRAY_AREA
        if event.bystander is not None:
            star = thing(event.bystander)
            side = SIZE - STAR_X if (event.bystander_side == "right") == (sign > 0) else STAR_X
            there = lit & (star.area > 25) & (star.area < 130)
            still = (np.abs(star.x - side) < 4) & (np.abs(star.y - STAR_Y) < 4) & (star.width < 15)
            checks["star still"] = bool(lit.any() and np.all((there & still)[lit]))
    return checks


def _drift(tracks: Tracks, clip: int, colour: str) -> int:
    x = tracks.x[clip, :, NAMES.index(colour)]
    seen = x[~np.isnan(x)]
    return 1 if len(seen) < 2 or seen[-1] >= seen[0] else -1


def _stray(event: Event, tracks: Tracks, clip: int) -> float:
    expected = {event.actor, event.other, event.bystander}
    others = [k for k, name in enumerate(NAMES) if name not in expected]
    return float((tracks.area[clip][:, others].sum(-1) + tracks.strange[clip]).max())


def _first(condition: NDArray) -> int:
    """The first frame where ``condition`` holds; a number past the end where it never does."""
    return int(condition.argmax()) if condition.any() else len(condition)


def _speed(event: Event, frame: int, last_fast: int, last_slow: int = 7) -> bool:
    return frame <= last_fast if event.speed == "fast" else last_fast < frame <= last_slow


def _steady(steps: NDArray) -> bool:
    """True if a way is gone at one speed; its last step may be cut short."""
    return bool(len(steps) > 1 and steps[:-1].min() > 1 and steps.max() - steps[:-1].min() < 3)


def _ball_whole(ball: Thing) -> bool:
    # A ball that comes back from a wall may roll half out of the picture.
    cut = np.abs(ball.x - SIZE / 2) > SIZE / 2 - 6.5
    whole, part = (ball.width > 6) & (ball.area > 40), (ball.width > 2) & (ball.area > 20)
    return ball.holds((0, 14.5), (6, 14.5)) and bool(np.all((ball.area < 140) & np.where(cut, part, whole)))


def _push(event: Event, ball: Thing, box: Thing) -> Checks:
    # Between two frames the ball may arrive and the box leave: contact is where the ball came to rest.
    rest = ball.x[-1]
    touch = _first(ball.x >= rest - 2)
    soon = min(touch + 2, len(box.x) - 1)
    gap = (box.x[0] - box.width[0] / 2) - (rest + ball.width[-1] / 2)
    return {
        "ball whole": _ball_whole(ball),
        "box whole": box.holds((7, 14.5), (7, 14.5)),
        "on the floor": bool(
            np.all(np.abs(ball.y - (FLOOR - 5.5)) < 3) and np.all(np.abs(box.y - (FLOOR - 5.5)) < 3)
        ),
        "ball approaches": bool(rest - ball.x[0] >= 9),
        "ball rolls steadily": _steady(np.diff(ball.x[: touch + 1])),
        "contact": bool(abs(gap) <= 4),
        "ball stops": ball.moves_at_most(3.5, slice(touch, None)),
        "box waits": box.moves_at_most(2.5, slice(0, max(touch, 1))),
        "box slides": bool(box.x[-1] - box.x[0] >= 5 and box.x[soon] - box.x[0] >= 2),
        "speed": _speed(event, touch, 3),
    }


def _bounce(event: Event, ball: Thing, wall: Thing) -> Checks:
    # NaN where the ball is missing: argmax would pick it, and every comparison with it is False.
    turn = int(ball.x.argmax())
    gap = wall.x[turn] - ball.x[turn] - (wall.width[turn] + ball.width[turn]) / 2
    steps = np.diff(ball.x)
    back = -steps[turn:][ball.x[turn + 1 :] > 6.5]
    return {
        "ball whole": _ball_whole(ball),
        "ball on the floor": bool(np.all(np.abs(ball.y - (FLOOR - 5.5)) < 3)),
        "wall still": wall.holds((4.5, 10), (28, 42)) and wall.moves_at_most(2.5),
        "wall on its side": bool(wall.x[0] > SIZE / 2),
        "ball approaches": bool(ball.x[turn] - ball.x[0] >= 9),
        # The step in which it turns is part there, part back.
        "ball rolls steadily": _steady(steps[:turn]) and _steady(back[::-1]),
        "contact": bool(abs(gap) <= 7),
        "comes back": bool(ball.x[turn] - ball.x[-1] >= 5),
        "turns once": bool(np.all(steps[:turn] > -1.5) and np.all(steps[turn:] < 1.5)),
        "speed": _speed(event, turn, 3, 6),
    }


def _leaves_shelf(event: Event, thing: Thing, shelf: Thing, height: float) -> Checks:
    depth = thing.y - thing.y[0]
    below = depth > 5
    leave = _first(below)
    steps = np.diff(thing.x[: leave + 1])
    return {
        "shelf still": shelf.holds((25, 40), (3, 10)) and shelf.moves_at_most(2.5),
        "shelf on its side": bool(shelf.x[0] < SIZE / 2),
        "starts on the shelf": bool(abs(thing.y[0] - (27 - height / 2)) < 4 and thing.x[0] < SHELF_EDGE - 6),
        # In the air it is slower than on the shelf.
        "nears the edge steadily": bool(len(steps) and np.all(steps > 1) and np.all(steps < steps[0] + 3)),
        "falls past the edge": bool(below.any() and np.all(thing.x[depth > 2.5] > SHELF_EDGE - 3)),
        # From the shelf to the floor it takes more than two frames.
        "seen in the air": bool(np.any((depth > 4) & (depth < 20))),
        # A bounce between two frames shows the thing some way above the floor in both.
        "lands": bool(np.max(thing.y) > FLOOR - height / 2 - 8),
        "speed": _speed(event, leave, 4, 6),
    }


def _fall(event: Event, ball: Thing, shelf: Thing) -> Checks:
    return _leaves_shelf(event, ball, shelf, 11.0) | {
        # A falling ball is blurred neither by the camera nor by the codec: it keeps its size.
        "ball whole": _ball_whole(ball),
        "stays down": bool(ball.y[-1] > FLOOR - 19),
    }


def _shatter(event: Event, vase: Thing, shelf: Thing) -> Checks:
    broken = (vase.width > 16) & (vase.height < 8.5)
    land = _first(broken)
    before = slice(0, max(min(land, len(broken) - 1), 1))
    return _leaves_shelf(event, vase, shelf, 12.0) | {
        "lands": bool(np.max(vase.y) > FLOOR - 9),
        "vase whole before": vase.holds((5, 13.5), (7, 16), before),
        "breaks": bool(broken[-1] and vase.area[-1] > 55),
        "breaks at once": bool(np.count_nonzero(~broken & (vase.y > FLOOR - 7.5)) <= 1),
        "stays broken": bool(broken[land:].all()),
        "pieces on the floor": bool(np.all(np.abs(vase.y[land:] - (FLOOR - 2.5)) < 3)),
    }


def _melt(event: Event, ice: Thing, heater: Thing) -> Checks:
    return {
        "block at first": ice.holds((11, 18), (13, 22), slice(0, 1)),
        "shrinks steadily": bool(np.all(np.abs(np.diff(ice.height) + 1.75) < 4.25)),
        "flat at last": bool(ice.height[-1] < 8),
        "spreads": bool(20 < ice.width[-1] < 38),
        "stays in place": bool(np.all(np.abs(ice.x - ice.x[0]) < 4)),
        "on the floor": bool(np.all(np.abs(ice.y + ice.height / 2 - FLOOR) < 3)),
        "heater still": heater.holds((6, 12), (10, 18)) and heater.moves_at_most(2.5),
        "heater on its side": bool(heater.x[0] > SIZE / 2),
        "speed": _speed(event, _first(ice.height < 9), 4),
    }


def _light(event: Event, lamp: Thing, foot: Thing, light: NDArray) -> Checks:
    lit = light > BRIGHT
    on = _first(lit)
    shown = slice(on, None)
    colour_in_dark = (lamp.area + foot.area)[light < DARK]
    return {
        "dark at first": bool(light[0] < DARK),
        "lights up": bool(lit[-1]),
        "stays lit": bool(lit[on:].all()),
        "dark shows nothing": bool(np.all(colour_in_dark < STRAY_AREA)),
        "lamp shines": bool(lit.any()) and lamp.holds((9, 17), (9, 17), shown),
        "lamp in place": bool(
            lit.any() and np.all(np.abs(lamp.y[shown] - 25) < 4) and lamp.moves_at_most(2.5, shown)
        ),
        "foot in place": bool(lit.any())
        and foot.holds((11, 20), (4, 9), shown)
        and foot.moves_at_most(2.5, shown),
        "side": bool(
            lit.any() and np.all(lamp.x[shown] > SIZE / 2) and np.all(np.abs(lamp.x - foot.x)[shown] < 4)
        ),
        "speed": _speed(event, on, 3),
    }


def _rise(event: Event, balloon: Thing, box: Thing) -> Checks:
    steps = -np.diff(balloon.y)
    free = steps[balloon.y[1:] > 11]
    return {
        "balloon whole": balloon.holds((8, 15), (9, 17)),
        "box still": box.holds((7, 14.5), (7, 14.5)) and box.moves_at_most(2.5),
        "starts at the box": bool(abs(balloon.x[0] - box.x[0]) < 5 and 29 < balloon.y[0] < 41),
        "rises": bool(balloon.y[0] - balloon.y[-1] >= 12),
        # At the top of the picture it stays.
        "never sinks": bool(np.all(steps > -1.5)),
        "rises steadily": bool(len(free) and steps.max() - free.min() < 2.5),
        "drifts": bool(balloon.x[-1] - balloon.x[0] >= 5),
        "speed": bool((balloon.y[0] - balloon.y[4] > 13.5) == (event.speed == "fast")),
    }


_CHECKS: dict[Kind, Callable[[Event, Thing, Thing], Checks]] = {
    "push": _push,
    "bounce": _bounce,
    "fall": _fall,
    "shatter": _shatter,
    "melt": _melt,
    "rise": _rise,
}
