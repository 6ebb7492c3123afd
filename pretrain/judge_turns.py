"""Chat turns for a judge: describe a clip, and decide whether a caption follows from a preceding scene.

A verdict is one bit of a whole scene and a caption; from that alone a small model does not learn to compare.
So it thinks before: it reads each fact out of both, marks whether they agree, and decides on the last line:

    event: push push+; actor: red green-; other: blue blue+; side: left left+; ...
    Fail
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from policies.unified.comprehension import Comprehension
from pretrain.judge_clips import Frames, recoloured
from pretrain.recognition import Recognised, Side, follows, recognise
from pretrain.turns import DESCRIBE, JUDGE, batch_of
from rlnsp.world import language
from rlnsp.world.events import COLOURS, Event, split_of

NAMES = tuple(COLOURS)
SAME = tuple(range(len(NAMES)))
LABEL_BATCH = 64
THOUGHT = re.compile(r"(.*;\n)(Pass|Fail)")
"""An answer: what is thought, and the verdict."""
CHANGES = {0: 0.4, 1: 0.35, 2: 0.15, 3: 0.1}
"""Shares of scenes that differ in so many attributes from what is shown."""
OPEN_SHARE = 0.3
"""Of the rising balloons of such scenes, so many may go either way."""


class Turn(NamedTuple):
    """A question, its answer, and the frames (F, H, W, 3) that are shown, if any."""

    question: str
    answer: str
    frames: Frames | None = None


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A clip in a form in which it is shown, the scene it was meant to follow, and what it turned out."""

    clip: int
    asked: Event
    seen: Recognised
    mirrored: bool = False
    colours: Sequence[int] = SAME
    """As for ``recoloured``."""

    def of(self, clips: Frames) -> Frames:
        """Its frames (F, H, W, 3)."""
        clip = clips[self.clip, :, :, ::-1] if self.mirrored else clips[self.clip]
        return clip if tuple(self.colours) == SAME else recoloured(clip, self.colours)


def shown(clips: Frames, asked: Sequence[Event]) -> list[Shown]:
    """What the tracker makes of clips (R, F, H, W, 3) that were to follow the scenes ``asked``."""
    made = []
    for begin in range(0, len(asked), LABEL_BATCH):
        part = slice(begin, begin + LABEL_BATCH)
        seen = recognise(clips[part], asked[part])
        pairs = zip(asked[part], seen, strict=True)
        made += [Shown(clip=begin + n, asked=own, seen=one) for n, (own, one) in enumerate(pairs)]
    return made


def read_shown(entry: Mapping[str, Any]) -> Shown:
    """What ``dataclasses.asdict`` made of a clip as it is."""
    seen = entry["seen"]
    event = Event(**seen["event"]) if seen["event"] else None
    recognised = Recognised(event=event, failed=tuple(seen["failed"]), bounces=seen["bounces"])
    return Shown(clip=entry["clip"], asked=Event(**entry["asked"]), seen=recognised)


def form(one: Shown, rng: np.random.Generator) -> Shown:
    """A mirrored and recoloured form of a clip as it is, of scenes of the training split alone."""
    while True:
        mirrored, colours = bool(rng.random() < 0.5), tuple(map(int, rng.permutation(len(NAMES))))
        asked = _turned(one.asked, mirrored, colours)
        event = one.seen.event and _turned(one.seen.event, mirrored, colours)
        if split_of(asked) == "train" and (event is None or split_of(event) == "train"):
            seen = replace(one.seen, event=event)
            return replace(one, asked=asked, seen=seen, mirrored=mirrored, colours=colours)


def description(one: Shown, clips: Frames) -> Turn:
    """What the clip shows."""
    return Turn(DESCRIBE, one.seen.caption, one.of(clips))


def verdict(one: Shown, rng: np.random.Generator) -> Turn:
    """On a true caption, and the clip's own scene or one that is nearly that of what the clip shows."""
    asked, changes = one.asked, int(rng.choice(list(CHANGES), p=list(CHANGES.values())))
    if changes:
        asked = one.seen.event or one.asked
        for _ in range(changes):
            asked = near(asked, rng)
        open_ended = replace(asked, direction="either")
        if asked.kind == "rise" and split_of(open_ended) == "train" and rng.random() < OPEN_SHARE:
            asked = open_ended
    question = JUDGE.format(context=language.describe(asked, rng), caption=one.seen.caption)
    return Turn(question, thought(asked, one.seen) + ("Pass" if follows(asked, one.seen) else "Fail"))


def thought(asked: Event, seen: Recognised) -> str:
    """Each fact as the scene and the caption have it, and whether it is the same."""
    if seen.event is None:
        return "event: none-;\n"
    theirs, own = language.facts(asked, asked.direction), language.facts(seen.event, seen.event.direction)
    same = {name: value in (own[name], "either") for name, value in theirs.items()}
    told = [f"{name}: {theirs[name]} {own[name]}{'+' if same[name] else '-'};" for name in theirs]
    return " ".join(told) + "\n"


def near(event: Event, rng: np.random.Generator) -> Event:
    """A scene of the training split that differs from ``event`` in one attribute."""
    while True:
        other = list(NEAR.values())[rng.integers(len(NEAR))](event, rng)
        if other != event and split_of(other) == "train":
            return other


def _turned(event: Event, mirrored: bool, colours: Sequence[int]) -> Event:
    names = {name: NAMES[colours[k]] for k, name in enumerate(NAMES)}
    other = replace(
        event,
        actor=names[event.actor],
        other=names[event.other],
        bystander=names[event.bystander] if event.bystander else None,
    )
    if not mirrored:
        return other
    # Of a scene without a star the side says nothing, and is left alone.
    side = _other_side(event.bystander_side) if event.bystander else event.bystander_side
    return replace(_to_the_other_side(other, np.random.default_rng(0)), bystander_side=side)


@dataclass(frozen=True, kw_only=True)
class JudgeTurns:
    """Collates rows, each the name of a lesson and a seed; its turn is made when it is needed."""

    comprehension: Comprehension
    lessons: Mapping[str, Callable[[np.random.Generator], Turn]]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """As ``batch_of``."""
        turns = [self.lessons[row["lesson"]](np.random.default_rng(row["seed"])) for row in rows]
        return batch_of(self.comprehension, turns)


def _other_side(side: Side) -> Side:
    return "left" if side == "right" else "right"


def _free(event: Event, rng: np.random.Generator) -> str:
    taken = (event.actor, event.other, event.bystander)
    return str(rng.choice([colour for colour in COLOURS if colour not in taken]))


def _to_the_other_side(event: Event, rng: np.random.Generator) -> Event:
    if event.direction == "either":
        return event
    return replace(event, direction=_other_side(event.direction))


def _star(event: Event, rng: np.random.Generator) -> Event:
    """Come, gone, of another colour or in the other corner."""
    if event.bystander is None:
        side: Side = "left" if rng.random() < 0.5 else "right"
        return replace(event, bystander=_free(event, rng), bystander_side=side)
    return [
        replace(event, bystander=None, bystander_side="left"),
        replace(event, bystander=_free(event, rng)),
        replace(event, bystander_side=_other_side(event.bystander_side)),
    ][rng.integers(3)]


NEAR: dict[str, Callable[[Event, np.random.Generator], Event]] = {
    "direction": _to_the_other_side,
    "speed": lambda event, rng: replace(event, speed="fast" if event.speed == "slow" else "slow"),
    "actor": lambda event, rng: replace(event, actor=_free(event, rng)),
    "other": lambda event, rng: replace(event, other=_free(event, rng)),
    "swapped": lambda event, rng: replace(event, actor=event.other, other=event.actor),
    "star": _star,
}
