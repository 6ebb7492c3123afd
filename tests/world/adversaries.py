"""Clips that look almost right: what a judge of pixels must not be taken in by.

Each takes an event, one of its futures and a generator, and makes frames (F, H, W, 3); None where the result
would be a true clip after all.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rlnsp.world.events import COLOURS, Event
from rlnsp.world.motion import FRAMES, SIZE, TIME, Future, Item
from rlnsp.world.rendering import render

Frames = NDArray[np.uint8]
Adversary = Callable[[Event, Future, np.random.Generator], Frames | None]

SHUFFLE = (4, 0, 7, 2, 8, 5, 1, 6, 3)
LATE = (0, 0, 0, 0, 1, 2, 3, 4, 5)


def edited(future: Future, colour: str, edit: Callable[[Item], Item]) -> Future:
    """The future with every item of one colour edited."""
    return replace(
        future, items=tuple(edit(item) if item.colour == colour else item for item in future.items)
    )


def recoloured(future: Future, colours: dict[str, str]) -> Future:
    """The future with colours exchanged."""
    return replace(
        future,
        items=tuple(replace(item, colour=colours.get(item.colour, item.colour)) for item in future.items),
    )


def shown(future: Future, colour: str, frames: slice) -> Frames:
    """The future with one colour to be seen in ``frames`` only."""
    visible = np.zeros(FRAMES)
    visible[frames] = 1
    return render(edited(future, colour, lambda item: replace(item, opacity=item.opacity * visible)))


def doubled(future: Future, colour: str, dx: float, dy: float) -> Frames:
    """The future with a copy of one colour's items beside the first."""
    copies = tuple(
        replace(
            item,
            x=item.x + dx * (1 if item.x[0] < SIZE / 2 else -1),
            y=item.y + dy * (1 if item.y[0] < 28 else -1),
        )
        for item in future.items
        if item.colour == colour
    )
    return render(replace(future, items=future.items + copies))


def faded(frames: Frames) -> Frames:
    """From the first frame to the last by cross-fading, as a weak generator does."""
    share = (TIME / TIME[-1])[:, None, None, None]
    return np.rint((1 - share) * frames[0] + share * frames[-1]).astype(np.uint8)


def resampled(item: Item, time: NDArray) -> Item:
    """The item moving by another clock."""

    def at(values: NDArray) -> NDArray:
        return np.interp(time, TIME, values)

    return replace(item, x=at(item.x), y=at(item.y), width=at(item.width), height=at(item.height))


def _free(event: Event) -> str:
    return next(colour for colour in COLOURS if colour not in (event.actor, event.other, event.bystander))


def _mirrored(event: Event, future: Future, rng: np.random.Generator) -> Frames | None:
    # The wind that turns here and there blows to either side.
    if event.direction == "either" and event.bystander is None:
        return None
    return render(future)[:, :, ::-1]


def _flickering(event: Event, future: Future, rng: np.random.Generator) -> Frames:
    frames = render(future)
    frames[1::2] = frames[1::2][..., [1, 2, 0]]
    return frames


def _dimming(event: Event, future: Future, rng: np.random.Generator) -> Frames:
    return render(replace(future, light=future.light * np.where(TIME % 2 == 1, 0.55, 1.0)))


def _effect_first(event: Event, future: Future, rng: np.random.Generator) -> Frames:
    """What should follow comes before what should cause it."""
    if event.kind == "push":
        return render(
            edited(future, event.other, lambda item: resampled(item, np.minimum(TIME + 3, TIME[-1])))
        )
    if event.kind == "bounce":
        return render(edited(future, event.actor, lambda item: replace(item, x=item.x - 11 * event.sign)))
    if event.kind == "fall":
        return render(edited(future, event.actor, lambda item: replace(item, x=item.x - 14 * event.sign)))
    if event.kind == "shatter":
        early = np.minimum(np.arange(FRAMES) + 2, FRAMES - 1)
        return render(edited(future, event.actor, lambda item: replace(item, opacity=item.opacity[early])))
    if event.kind == "melt":
        return shown(future, event.other, slice(5, None))
    if event.kind == "light":
        lit = int((future.light > 0.9).argmax())
        return shown(future, event.actor, slice(lit + 2, None))
    return render(edited(future, event.actor, lambda item: replace(item, y=np.maximum(item.y - 14, 8))))


def _effect_missing(event: Event, future: Future, rng: np.random.Generator) -> Frames:
    """What should follow does not, though its cause is there."""
    if event.kind in ("push", "melt"):
        frozen = event.other if event.kind == "push" else event.actor
        return render(edited(future, frozen, lambda item: resampled(item, np.zeros(FRAMES))))
    if event.kind == "light":
        return render(replace(future, light=np.full(FRAMES, future.light[0])))
    if event.kind == "shatter":
        return render(replace(future, items=tuple(_unbroken(item, event.actor) for item in future.items)))
    # The ball stops at the wall, or where the shelf ends; the balloon stays on its string.
    stop = 0.0 if event.kind == "rise" else float(_turn(event, future))
    return render(edited(future, event.actor, lambda item: resampled(item, np.minimum(TIME, stop))))


def _effect_late(event: Event, future: Future, rng: np.random.Generator) -> Frames | None:
    """What should follow at once follows some frames later."""
    if event.kind in ("melt", "light", "rise"):
        return None
    if event.kind == "push":
        return render(edited(future, event.other, lambda item: resampled(item, np.maximum(TIME - 3, 0))))
    if event.kind == "shatter":
        late = np.maximum(np.arange(FRAMES) - 2, 0)
        return render(edited(future, event.actor, lambda item: replace(item, opacity=item.opacity[late])))
    turn = _turn(event, future)
    time = np.where(turn < TIME, np.maximum(TIME - 3, turn), TIME)
    return render(edited(future, event.actor, lambda item: resampled(item, time)))


def _turn(event: Event, future: Future) -> int:
    """The last frame before the ball turns at the wall, or falls off the shelf."""
    ball = next(item for item in future.items if item.colour == event.actor)
    if event.kind == "bounce":
        return int((ball.x * event.sign).argmax())
    return int((ball.y > ball.y[0] + 1).argmax()) - 1


def _unbroken(item: Item, colour: str) -> Item:
    if item.colour != colour:
        return item
    return replace(item, opacity=np.full(FRAMES, float(item.opacity[0])))


def _jumping(event: Event, future: Future, rng: np.random.Generator) -> Frames | None:
    """The actor waits, then is all at once where it would have been."""
    if event.kind == "light":
        return None
    until = 3 if event.speed == "fast" else 5
    time = np.where(until > TIME, 0.0, TIME)
    return render(edited(future, event.actor, lambda item: resampled(item, time)))


def _third(event: Event, future: Future, rng: np.random.Generator) -> Frames:
    star = rng.uniform(26, 38)
    extra = Item(
        shape="circle",
        colour=_free(event),
        x=_still(star),
        y=_still(12),
        width=_still(9),
        height=_still(9),
        opacity=_still(1),
    )
    return render(replace(future, items=(*future.items, extra)))


def _still(value: float) -> NDArray:
    return np.full(FRAMES, float(value))


ADVERSARIES: dict[str, Adversary] = {
    "static frame": lambda event, future, rng: np.repeat(render(future)[:1], FRAMES, axis=0),
    "last frame only": lambda event, future, rng: np.repeat(render(future)[-1:], FRAMES, axis=0),
    "reversed": lambda event, future, rng: render(future)[::-1],
    "shuffled": lambda event, future, rng: render(future)[list(SHUFFLE)],
    "frozen for 3 frames": lambda event, future, rng: render(future)[list(LATE)],
    "jumping": _jumping,
    "cross-faded": lambda event, future, rng: faded(render(future)),
    "effect before cause": _effect_first,
    "effect missing": _effect_missing,
    "effect late": _effect_late,
    "wrong colour": lambda event, future, rng: render(recoloured(future, {event.actor: _free(event)})),
    "colours swapped": lambda event, future, rng: render(
        recoloured(future, {event.actor: event.other, event.other: event.actor})
    ),
    "colours flickering": _flickering,
    "light flickering": _dimming,
    "actor vanishes": lambda event, future, rng: shown(future, event.actor, slice(0, 6)),
    "actor gone at last": lambda event, future, rng: shown(future, event.actor, slice(0, FRAMES - 1)),
    "other vanishes": lambda event, future, rng: shown(future, event.other, slice(0, 6)),
    "other missing": lambda event, future, rng: shown(future, event.other, slice(0, 0)),
    "actor doubled above": lambda event, future, rng: doubled(future, event.actor, 0, 15),
    "actor doubled beside": lambda event, future, rng: doubled(future, event.actor, 15, 0),
    "other doubled": lambda event, future, rng: doubled(future, event.other, 0, 18),
    "third thing": _third,
    "mirrored": _mirrored,
    "upside down": lambda event, future, rng: render(future)[:, ::-1],
    "noise": lambda event, future, rng: rng.integers(0, 256, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8),
}
