"""What can happen in the embedded world, and which compositions are held out of every training stage."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np

Kind = Literal["push", "bounce", "fall", "shatter", "melt", "light", "rise"]
Direction = Literal["left", "right", "either"]
Speed = Literal["slow", "fast"]
Split = Literal["train", "heldout"]

KINDS: tuple[Kind, ...] = ("push", "bounce", "fall", "shatter", "melt", "light", "rise")

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "yellow": (235, 205, 40),
    "green": (30, 185, 60),
    "cyan": (40, 200, 215),
    "blue": (45, 80, 220),
    "purple": (200, 50, 210),
}

HELD_OUT_SHARE = 0.2
BYSTANDER_SHARE = 0.5
NUM_DISTINCT = 400
"""Events of one draw that all differ: more than an evaluation takes, and few enough for every kind to have
fresh ones, with a star and without."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One composition: everything about a preceding scene but its wording."""

    kind: Kind
    actor: str
    """Colour of what moves, melts or lights up."""
    other: str
    """Colour of what it meets, leaves or stands on."""
    direction: Direction
    """Where the actor goes; the heater's side (melt); the lamp's (light).  ``either``: two futures (rise)."""
    speed: Speed
    bystander: str | None = None
    """Colour of a star that has no part in it."""
    bystander_side: Literal["left", "right"] = "left"

    @property
    def sign(self) -> int:
        """1 for right, -1 for left, 0 for either."""
        return {"left": -1, "right": 1, "either": 0}[self.direction]


def split_of(event: Event) -> Split:
    """The split that owns the composition (kind, colours, direction), whatever its speed, star or wording."""
    key = f"{event.kind}/{event.actor}/{event.other}/{event.direction}"
    draw = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") / 2**32
    return "heldout" if draw < HELD_OUT_SHARE else "train"


def all_events(split: Split) -> Iterator[Event]:
    """Every composition of a split, without a star, in a fixed order."""
    for kind in KINDS:
        directions: tuple[Direction, ...] = (
            ("left", "right", "either") if kind == "rise" else ("left", "right")
        )
        for actor, other in permutations(COLOURS, 2):
            for direction in directions:
                for speed in ("slow", "fast"):
                    event = Event(kind=kind, actor=actor, other=other, direction=direction, speed=speed)
                    if split_of(event) == split:
                        yield event


def sample_events(split: Split, n: int, rng: np.random.Generator) -> list[Event]:
    """``n`` events: kinds in equal shares, the rest uniform, half of them with a star.

    The first ``NUM_DISTINCT`` differ in composition, speed or star; later ones may repeat.
    """
    every = list(all_events(split))
    by_kind = {kind: [event for event in every if event.kind == kind] for kind in KINDS}
    events: list[Event] = []
    seen: set[Event] = set()
    while len(events) < n:
        kind = KINDS[len(events) % len(KINDS)]
        event = with_star(by_kind[kind][rng.integers(len(by_kind[kind]))], rng)
        if event in seen and len(seen) < NUM_DISTINCT:
            continue
        seen.add(event)
        events.append(event)
    return [events[i] for i in rng.permutation(n)]


def with_star(event: Event, rng: np.random.Generator) -> Event:
    """The event, with probability a half beside a star of a third colour."""
    if rng.random() >= BYSTANDER_SHARE:
        return event
    free = [colour for colour in COLOURS if colour not in (event.actor, event.other)]
    side: Literal["left", "right"] = "left" if rng.random() < 0.5 else "right"
    return Event(
        kind=event.kind,
        actor=event.actor,
        other=event.other,
        direction=event.direction,
        speed=event.speed,
        bystander=free[rng.integers(len(free))],
        bystander_side=side,
    )
