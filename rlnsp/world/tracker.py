"""The exact judge of the embedded world: captions a clip from its pixels, then decides on its consistency."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rlnsp.world.judging import BRIGHT, DARK, judge
from rlnsp.world.language import parse
from rlnsp.world.motion import FLOOR
from rlnsp.world.tracking import NAMES, Tracks, track


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the judge says of one clip."""

    caption: str
    checks: dict[str, bool] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Causally consistent: every named check holds."""
        return all(self.checks.values())

    @property
    def soft(self) -> float:
        """The share of the checks that hold, in [0, 1]."""
        return sum(self.checks.values()) / len(self.checks)

    @property
    def failed(self) -> list[str]:
        """The names of the checks that do not hold."""
        return [name for name, holds in self.checks.items() if not holds]


class Tracker:
    """Reads pixels, and only those."""

    def caption(self, frames: NDArray) -> list[str]:
        """A sentence for each clip of (B, F, H, W, 3) uint8."""
        tracks = track(frames)
        return [_caption(tracks, clip) for clip in range(len(frames))]

    def judge(self, contexts: Sequence[str], frames: NDArray) -> list[Verdict]:
        """A verdict for each preceding scene and its clip.

        Raises:
            UnknownContext: a context is not a sentence of this world.
        """
        events = [parse(context) for context in contexts]
        tracks = track(frames)
        return [
            Verdict(caption=_caption(tracks, clip), checks=judge(event, tracks, clip))
            for clip, event in enumerate(events)
        ]


def _caption(tracks: Tracks, clip: int) -> str:
    light = tracks.light[clip]
    parts = [text for k, name in enumerate(NAMES) if (text := _thing(tracks, clip, k, name))]
    if light[0] < DARK:
        parts.insert(0, f"a dark room lights up in frame {int((light > BRIGHT).argmax())}" if light[-1] > BRIGHT
                     else "the room stays dark")  # fmt: skip
    if tracks.strange[clip].max() > 60:
        parts.append("there are strange colours")
    text = "; ".join(parts) or "nothing is to be seen"
    return text[0].upper() + text[1:] + "."


def _thing(tracks: Tracks, clip: int, k: int, colour: str) -> str:
    seen = ~np.isnan(tracks.x[clip, :, k])
    if seen.sum() < 2:
        return ""
    x, y, w, h = (getattr(tracks, name)[clip, seen, k] for name in ("x", "y", "width", "height"))
    first, last = np.flatnonzero(seen)[[0, -1]]
    text = f"a {colour} thing " + _moves(x, y, w, h)
    if first > 0 and tracks.light[clip, first - 1] > DARK:
        text += f", appearing in frame {first}"
    if last < len(seen) - 1:
        text += f", and vanishes after frame {last}"
    return text


def _moves(x: NDArray, y: NDArray, w: NDArray, h: NDArray) -> str:
    if w[-1] > w[0] + 8 and h[-1] < h[0] - 3:
        how = "falls and breaks" if y[-1] - y[0] > 18 else "flattens into a puddle"
        return how
    dx, dy = x[-1] - x[0], y[-1] - y[0]
    reach = x[np.abs(x - x[0]).argmax()] - x[0]
    side = "right" if reach > 0 else "left"
    if abs(reach) > abs(dx) + 4:
        return f"moves {side} and comes back"
    words = []
    if abs(dx) > 4:
        words.append(f"moves {side}")
    if dy < -6:
        words.append("rises")
    if dy > 6:
        words.append("falls" if y[-1] > FLOOR - 20 else "sinks")
    if not words:
        return "stays where it is"
    steps = np.hypot(np.diff(x), np.diff(y))
    if len(steps) > 2 and steps[-2:].max() < 0.8:
        words.append("stops")
    return " and ".join(words)
