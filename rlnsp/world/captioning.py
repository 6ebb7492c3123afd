"""Says in English what tracks show, knowing neither what things are called nor what was expected."""

import numpy as np
from numpy.typing import NDArray

from rlnsp.world.motion import FLOOR
from rlnsp.world.tracking import NAMES, Tracks

STILL, TURN = 4.0, 4.0
"""Pixels: less of a way is no motion; less of a way back is no return."""
STRANGE_AREA, NOISE_AREA = 60, 1500
"""Pixels of strange colours that are worth a word; pixels of all colours, more than things ever have."""
TWO = 0.73
"""Share of the box around them that two things apart fill; one thing fills all of it, shards 3/4."""

LIT = 150.0
"""Mean brightness of a room where colours are to be seen; a bright one has about 200, a dark one 25."""

_TIMES = {2: "twice", 3: "three times", 4: "four times"}


def caption(tracks: Tracks, clip: int) -> str:
    """One sentence on clip number ``clip``: the room, what moves, what stays; frames count from 1."""
    if (tracks.area[clip].sum(-1) + tracks.strange[clip]).max() > NOISE_AREA:
        return "The picture is full of noise."
    moving: list[tuple[int, str]] = []
    still: list[str] = []
    for k, name in enumerate(NAMES):
        # In the dark nothing is to be seen: that is the room's doing.
        lit = tracks.light[clip] > LIT
        seen = lit & ~np.isnan(tracks.x[clip, :, k])
        if not seen.any():
            continue
        how, since = _thing(tracks, clip, k, seen, lit)
        if how:
            moving.append((since, f"a {name} thing {_listed(how)}"))
        else:
            still.append(f"a {name} thing")
    room = _room(tracks.light[clip])
    parts = [room] if room else []
    # Causes before effects: in the order in which they begin.
    parts += [text for _, text in sorted(moving, key=lambda one: one[0])]
    if still:
        one, more = (
            ("is in it", "are in it") if "dark" in room else ("stays where it is", "stay where they are")
        )
        parts.append(f"{_listed(still)} {one if len(still) == 1 else more}")
    if tracks.strange[clip].max() > STRANGE_AREA:
        parts.append("there are strange colours")
    text = "; ".join(parts) or "nothing is to be seen"
    return text[0].upper() + text[1:] + "."


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _room(light: NDArray) -> str:
    lit = light > LIT
    changes = np.flatnonzero(np.diff(lit)) + 2
    if len(changes) > 1:
        return "the light flickers"
    if len(changes) == 1:
        return (
            f"a dark room lights up in frame {changes[0]}"
            if lit[-1]
            else f"the room goes dark in frame {changes[0]}"
        )
    return "" if lit[0] else "the room stays dark"


def _thing(tracks: Tracks, clip: int, k: int, seen: NDArray, lit: NDArray) -> tuple[list[str], int]:
    """What one colour does, nothing if it stays; and the frame in which that begins."""
    x, y, w, h, area = (
        getattr(tracks, name)[clip, seen, k] for name in ("x", "y", "width", "height", "area")
    )
    changed = np.hypot(x - x[0], y - y[0]) + np.abs(h - h[0]) > 2
    how = _grows(area, w, h) or _moves(x, y, w, h) or _shrinks(area, w, h)
    if area[0] < TWO * w[0] * h[0] and h[0] > 8:
        how.append("is there twice")
    first, last = np.flatnonzero(seen)[[0, -1]]
    if np.count_nonzero(np.diff(seen[lit])) > 2:
        how.append("flickers")
    else:
        if lit[:first].any():
            how.insert(0, f"appears in frame {first + 1}")
        if lit[last + 1 :].any():
            how.append(f"vanishes after frame {last + 1}")
    return how, int(first + changed.argmax())


def _moves(x: NDArray, y: NDArray, w: NDArray, h: NDArray) -> list[str]:
    """How it moves, and what becomes of it; empty if it does not."""
    flatter = w[-1] > w[0] + 8 and h[-1] < h[0] - 3
    if h[-1] > h[0] + 6 and w[-1] < w[0] - 8 and y[0] - y[-1] < 18:
        return ["grows tall out of a puddle"]
    if flatter and y[-1] - y[0] < 18:
        return ["melts into a puddle"]
    words = _sideways(x) + _upright(y)
    if flatter:
        return [*words, "breaks"]
    if words and len(x) > 2 and np.hypot(np.diff(x), np.diff(y))[-2:].max() < 0.8:
        words.append("stops")
    return words


def _grows(area: NDArray, w: NDArray, h: NDArray) -> list[str]:
    ratio = float(np.median(area[-2:]) / area[0])
    if ratio < 1.6:
        return []
    apart = area[-1] < TWO * w[-1] * h[-1]
    return ["becomes two" if apart else f"grows to {_TIMES.get(round(ratio), 'many times')} its size"]


def _shrinks(area: NDArray, w: NDArray, h: NDArray) -> list[str]:
    if np.median(area[-2:]) < 0.5 * area[0]:
        return ["shrinks"]
    return ["changes its shape"] if np.ptp(h) > 6 and np.ptp(w) > 6 else []


def _turns(x: NDArray) -> list[float]:
    """Where a track starts, turns and ends; wobbles of less than ``TURN`` are no turns."""
    points = [float(x[0])]
    extreme = points[0]
    for value in map(float, x):
        way = extreme - points[-1]
        if way * (value - extreme) >= 0 or abs(way) < abs(value - points[-1]) < TURN:
            extreme = value
        elif abs(value - extreme) > TURN:
            # Less than a turn's way before it was a wobble: the start still stands.
            if abs(way) > TURN:
                points.append(extreme)
            extreme = value
    return [*points, extreme]


def _sideways(x: NDArray) -> list[str]:
    points = _turns(x)
    if len(points) > 3:
        return ["moves back and forth"]
    way = points[1] - points[0]
    if abs(way) <= STILL:
        return []
    there = f"moves {'right' if way > 0 else 'left'}"
    return [there, "comes back"] if len(points) == 3 else [there]


def _upright(y: NDArray) -> list[str]:
    if y.max() - y[0] > 6:
        down = "falls" if y.max() > FLOOR - 20 else "sinks"
        return [down, "bounces"] if (np.maximum.accumulate(y) - y).max() > STILL else [down]
    return ["rises"] if y[-1] - y[0] < -6 else []
