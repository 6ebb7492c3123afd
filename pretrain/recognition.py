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
from rlnsp.world.judging import DARK, judge
from rlnsp.world.motion import SIZE
from rlnsp.world.tracking import MIN_AREA, NAMES, Tracks, track

MOST_COLOURS = 4
"""Colours looked at, the largest; three belong to a scene, and a fourth is a fault."""
MOST_REASONS = 2
"""Checks that a caption names, of those that fail."""
NOTHING = "Nothing is to be made out."
"""Where fewer than two colours of the world are to be seen."""
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
    failed: tuple[str, ...] = ()
    """Checks of that event's kind that do not hold."""
    bounces: bool = False
    """What falls does not lie still at once."""

    @property
    def holds(self) -> bool:
        """True if the clip is a true one of the event."""
        return self.event is not None and not self.failed

    @property
    def caption(self) -> str:
        """The world's own sentence for the event, and what fails of it."""
        if self.event is None:
            return NOTHING
        rng = np.random.default_rng(FIRST_PHRASING)
        said = language.caption(self.event, self.event.direction, self.bounces, rng)
        return f"{said} What fails: {', '.join(self.failed[:MOST_REASONS])}." if self.failed else said


def recognise(frames: NDArray[np.uint8], expected: Sequence[Event]) -> list[Recognised]:
    """One for each clip (B, F, H, W, 3) of the embedded world's size.

    Args:
        frames: the clips.
        expected: an event for each, looked for first; of events that fit as badly, the first one is taken.
    """
    tracks = track(frames)
    return [_recognise(tracks, clip, event) for clip, event in enumerate(expected)]


def follows(asked: Event, seen: Recognised) -> bool:
    """True if the clip passes for the scene ``asked``: what the tracker says of the clip and the scene."""
    if not seen.holds or seen.event is None:
        return False
    either = asked.direction == "either"
    return seen.event == (replace(asked, direction=seen.event.direction) if either else asked)


def _recognise(tracks: Tracks, clip: int, expected: Event) -> Recognised:
    best: tuple[Event, tuple[str, ...]] | None = None
    for event in _candidates(tracks, clip, expected):
        failed = _failed(event, tracks, clip)
        if "speed" in failed:
            other = replace(event, speed="slow" if event.speed == "fast" else "fast")
            event, failed = other, _failed(other, tracks, clip)
        if best is None or len(failed) < len(best[1]):
            best = event, failed
        if not failed:
            break
    if best is None:
        return Recognised(event=None)
    return Recognised(event=best[0], failed=best[1], bounces="bounces" in caption(tracks, clip))


def _failed(event: Event, tracks: Tracks, clip: int) -> tuple[str, ...]:
    return tuple(name for name, holds in judge(event, tracks, clip).items() if not holds)


def _candidates(tracks: Tracks, clip: int, expected: Event) -> Iterator[Event]:
    """``expected``, then every fast event that the room, the colours, their places and ways leave open."""
    largest = np.nan_to_num(tracks.area[clip]).max(0)
    colours = [int(k) for k in np.argsort(-largest)[:MOST_COLOURS] if largest[k] >= MIN_AREA]
    stars = [k for k in colours if _mean(tracks.y[clip, :, k]) < STAR_BELOW]
    kinds: list[Kind] = [kind for kind in KINDS if (kind == "light") == bool(tracks.light[clip].min() < DARK)]
    if {NAMES.index(expected.actor), NAMES.index(expected.other)} <= set(colours):
        x = tracks.x[clip, :, NAMES.index(expected.actor)]
        either = expected.direction == "either"
        yield replace(expected, direction=_directions(expected.kind, x)[0]) if either else expected
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
