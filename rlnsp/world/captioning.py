"""Says in English what tracks show.  It knows pixels only: not what the things are called, nor what was expected."""

import numpy as np
from numpy.typing import NDArray

from rlnsp.world.judging import BRIGHT, DARK
from rlnsp.world.motion import FLOOR
from rlnsp.world.tracking import NAMES, Tracks

STILL, TURN = 4.0, 4.0
"""Pixels: less of a way is no motion; less of a way back is no return."""
STRANGE_AREA, NOISE_AREA = 60, 1200
"""Pixels of colours that are no thing's: worth a word; more than the picture's things together."""
TWO = 0.73
"""Share of the box around them that two things apart fill at most; a box fills all of it, shards more than 3/4."""

_TIMES = {2: "twice", 3: "three times", 4: "four times"}


def caption(tracks: Tracks, clip: int) -> str:
    """One sentence on clip number ``clip``: the room, what moves, what stays, what is odd; frames count from 1."""
    if tracks.strange[clip].max() > NOISE_AREA:
        return "The picture is full of noise."
    moving, still = [], []
    for k, name in enumerate(NAMES):
        text = _thing(tracks, clip, k, name)
        if text == "stays":
            still.append(f"a {name} thing")
        elif text:
            moving.append(f"a {name} thing {text}")
    room = _room(tracks.light[clip])
    parts = [room] if room else []
    parts += moving
    if still:
        stay = "stays where it is" if len(still) == 1 else "stay where they are"
        parts.append(f"{_listed(still)} {stay}")
    if tracks.strange[clip].max() > STRANGE_AREA:
        parts.append("there are strange colours")
    text = "; ".join(parts) or "nothing is to be seen"
    return text[0].upper() + text[1:] + "."


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _room(light: NDArray) -> str:
    lit = light > (DARK + BRIGHT) / 2
    changes = np.flatnonzero(np.diff(lit)) + 2
    if len(changes) > 1:
        return "the light flickers"
    if len(changes) == 1:
        return f"a dark room lights up in frame {changes[0]}" if lit[-1] else f"the room goes dark in frame {changes[0]}"
    return "" if lit[0] else "the room stays dark"


def _thing(tracks: Tracks, clip: int, k: int, colour: str) -> str:
    """What one colour does; ``stays`` if that is all, empty if it is not there."""
    # In the dark nothing is to be seen: that is the room's doing.
    lit = tracks.light[clip] > DARK
    seen = ~np.isnan(tracks.x[clip, :, k])
    if not seen.any():
        return ""
    x, y, w, h, area = (getattr(tracks, name)[clip, seen, k] for name in ("x", "y", "width", "height", "area"))
    how = _moves(x, y, w, h) or _changes(area, w, h)
    first, last = np.flatnonzero(seen)[[0, -1]]
    if area[0] < TWO * w[0] * h[0] and h[0] > 8:
        how.append("is there twice")
    if np.count_nonzero(np.diff(seen[lit])) > 2:
        how.append("flickers")
    else:
        if lit[:first].any():
            how.insert(0, f"appears in frame {first + 1}")
        if lit[last + 1 :].any():
            how.append(f"vanishes after frame {last + 1}")
    return _listed(how) if how else "stays"


def _moves(x: NDArray, y: NDArray, w: NDArray, h: NDArray) -> list[str]:
    """How it moves, and what becomes of it; empty if it does not."""
    flatter = w[-1] > w[0] + 8 and h[-1] < h[0] - 3
    if flatter and y[-1] - y[0] < 18:
        return ["melts into a puddle"]
    words = [text for text in (_sideways(x), _upright(y)) if text]
    if flatter:
        return [*words, "breaks"]
    if words and len(x) > 2 and np.hypot(np.diff(x), np.diff(y))[-2:].max() < 0.8:
        words.append("stops")
    return words


def _changes(area: NDArray, w: NDArray, h: NDArray) -> list[str]:
    """How the size of what stays in place changes."""
    ratio = float(np.median(area[-2:]) / area[0])
    if ratio < 0.5:
        return ["shrinks"]
    if ratio < 1.6:
        return []
    apart = area[-1] < TWO * w[-1] * h[-1]
    return ["becomes two" if apart else f"grows to {_TIMES.get(round(ratio), 'many times')} its size"]


def _turns(x: NDArray) -> list[float]:
    """Where a track starts, each of its extremes, and where it ends; wobbles of less than ``TURN`` are none."""
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


def _sideways(x: NDArray) -> str:
    points = _turns(x)
    if len(points) > 3:
        return "moves to and fro"
    way = points[1] - points[0]
    if abs(way) <= STILL:
        return ""
    side = "right" if way > 0 else "left"
    return f"moves {side} and comes back" if len(points) == 3 else f"moves {side}"


def _upright(y: NDArray) -> str:
    down, last = y.max() - y[0], y[-1] - y[0]
    if down > 6:
        landed = "falls" if y.max() > FLOOR - 20 else "sinks"
        return f"{landed} and bounces" if y.max() - y[-1] > STILL else landed
    return "rises" if last < -6 else ""
