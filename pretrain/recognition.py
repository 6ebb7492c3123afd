"""What the tracker makes of any clip: the event of the world that it shows, or what keeps it from being one.

The tracker decides on a clip for a given preceding scene.  A captioner does not know the scene: it has to say
what happens so exactly that the scene and the caption together decide, as they do here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rlnsp.world import language
from rlnsp.world.captioning import caption
from rlnsp.world.events import KINDS, Direction, Event, Kind
from rlnsp.world.judging import DARK, Checks, judge
from rlnsp.world.motion import SIZE
from rlnsp.world.tracking import MIN_AREA, NAMES, Tracks, track

MOST_COLOURS = 4
"""Colours looked at, the largest; three belong to a scene, and a fourth is a fault."""
MOST_REASONS = 3
"""Checks that a caption names, of those that fail."""
UNDIRECTED: tuple[Kind, ...] = ("bounce", "melt", "light")
"""Kinds whose actor ends where it began: their direction does not follow from where it goes."""
STAR_BELOW = 14.0
"""Pixels from the top: what stays higher on average may be a star."""
FIRST_PHRASING = 36
"""Seeds a generator that draws the first phrasing: a caption is to be compared, so an event has one."""
Side = Literal["left", "right"]


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """The event that comes nearest to what a clip shows."""

    event: Event | None
    """None where fewer than two colours of the world are to be seen."""
    checks: Checks
    """Of that event's kind."""
    caption: str
    """The world's own sentence for the event where every check holds.  Else what moves, and what fails."""

    @property
    def holds(self) -> bool:
        """True if the clip is a true one of the event."""
        return self.event is not None and all(self.checks.values())


def recognise(frames: NDArray[np.uint8]) -> list[Recognised]:
    """One for each clip (B, F, H, W, 3) of the embedded world's size."""
    tracks = track(frames)
    return [_recognise(tracks, clip) for clip in range(len(frames))]


def follows(asked: Event, seen: Recognised) -> bool:
    """True if the clip passes for the scene ``asked``: what the tracker says of the clip and the scene."""
    if not seen.holds or seen.event is None:
        return False
    either = asked.direction == "either"
    return seen.event == (replace(asked, direction=seen.event.direction) if either else asked)


def _recognise(tracks: Tracks, clip: int) -> Recognised:
    said = caption(tracks, clip)
    seen = [_at_its_speed(event, tracks, clip) for event in _candidates(tracks, clip)]
    if not seen:
        return Recognised(event=None, checks={}, caption=said)
    event, checks = min(seen, key=lambda one: list(one[1].values()).count(False))
    failed = [name for name, holds in checks.items() if not holds]
    if failed:
        said = f"{said} What fails: {', '.join(failed[:MOST_REASONS])}."
    else:
        rng = np.random.default_rng(FIRST_PHRASING)
        said = language.caption(event, event.direction, "bounces" in said, rng)
    return Recognised(event=event, checks=checks, caption=said)


def _at_its_speed(event: Event, tracks: Tracks, clip: int) -> tuple[Event, Checks]:
    checks = judge(event, tracks, clip)
    if checks["speed"]:
        return event, checks
    other = replace(event, speed="slow")
    return other, judge(other, tracks, clip)


def _candidates(tracks: Tracks, clip: int) -> Iterator[Event]:
    """Every fast event that the room, the colours, their places and their ways leave open."""
    largest = np.nan_to_num(tracks.area[clip]).max(0)
    colours = [int(k) for k in np.argsort(-largest)[:MOST_COLOURS] if largest[k] >= MIN_AREA]
    stars = [k for k in colours if _mean(tracks.y[clip, :, k]) < STAR_BELOW]
    kinds: list[Kind] = [kind for kind in KINDS if (kind == "light") == bool(tracks.light[clip].min() < DARK)]
    for actor, other in permutations(colours, 2):
        for star in [k for k in stars if k not in (actor, other)] or [None]:
            for kind in kinds:
                for direction in _directions(kind, tracks.x[clip, :, actor]):
                    yield Event(
                        kind=kind,
                        actor=NAMES[actor],
                        other=NAMES[other],
                        direction=direction,
                        speed="fast",
                        bystander=None if star is None else NAMES[star],
                        bystander_side="left" if star is None else _side(tracks.x[clip, :, star]),
                    )


def _directions(kind: Kind, x: NDArray) -> Sequence[Direction]:
    """Where an actor that was at ``x`` may have been bound."""
    x = x[~np.isnan(x)]
    if kind in UNDIRECTED or not len(x):
        return ("left", "right")
    return ("right" if x[-1] >= x[0] else "left",)


def _side(x: NDArray) -> Side:
    return "left" if _mean(x) < SIZE / 2 else "right"


def _mean(values: NDArray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.inf
