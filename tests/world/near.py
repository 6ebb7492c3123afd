"""Contexts that differ from a true one in one attribute: none of its clips may pass for them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from rlnsp.world import language
from rlnsp.world.events import COLOURS, Event


def reworded(event: Event) -> str:
    """The event in one phrasing."""
    return language.describe(event, np.random.default_rng(0))


def other_direction(event: Event) -> Event | None:
    """To the other side; none for an event that may go to both."""
    return (
        None
        if event.direction == "either"
        else replace(event, direction="left" if event.sign > 0 else "right")
    )


def other_speed(event: Event) -> Event:
    """Fast for slow, slow for fast."""
    return replace(event, speed="fast" if event.speed == "slow" else "slow")


def free_colour(event: Event) -> str:
    """A colour that nothing in the scene has."""
    return next(colour for colour in COLOURS if colour not in (event.actor, event.other, event.bystander))


def other_star_side(event: Event) -> Event | None:
    """The star in the other corner."""
    side: Literal["left", "right"] = "left" if event.bystander_side == "right" else "right"
    return replace(event, bystander_side=side) if event.bystander else None


def other_star(event: Event) -> Event | None:
    """A star of another colour."""
    return replace(event, bystander=free_colour(event)) if event.bystander else None


def star_come_or_gone(event: Event) -> Event:
    """A star where there is none, none where there is one."""
    return replace(event, bystander=None if event.bystander else free_colour(event))


NEAR: dict[str, Callable[[Event], Event | None]] = {
    "direction": other_direction,
    "speed": other_speed,
    "actor's colour": lambda event: replace(event, actor=free_colour(event)),
    "other's colour": lambda event: replace(event, other=free_colour(event)),
    "colours swapped": lambda event: replace(event, actor=event.other, other=event.actor),
    "star's side": other_star_side,
    "star's colour": other_star,
    "star there or not": star_come_or_gone,
}
