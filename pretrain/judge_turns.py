"""Chat turns for a judge: describe a clip, and decide whether a caption follows from a preceding scene."""

from collections.abc import Callable, Sequence
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


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A question and its answer."""

    question: str
    answer: str
    clip: int = -1
    """The clip that is shown; -1: none."""
    mirrored: bool = False
    colours: Sequence[int] = SAME
    """As for ``recoloured``."""

    def of(self, clips: Frames) -> Frames:
        """The frames (F, H, W, 3) that are shown."""
        return _turned(clips[self.clip], self.mirrored, self.colours)


class Shown(NamedTuple):
    """A clip in a form in which it is shown, and the scene whose next one it was meant to be."""

    clip: int
    asked: Event
    mirrored: bool = False
    colours: Sequence[int] = SAME

    def of(self, clips: Frames) -> Frames:
        """Its frames (F, H, W, 3)."""
        return _turned(clips[self.clip], self.mirrored, self.colours)


def copies(shown: Shown, n: int, rng: np.random.Generator) -> list[Shown]:
    """``n`` mirrored and recoloured forms, of scenes of the training split alone."""
    made: list[Shown] = []
    while len(made) < n:
        mirrored, colours = bool(rng.random() < 0.5), tuple(map(int, rng.permutation(len(NAMES))))
        asked = _turned_event(shown.asked, mirrored, colours)
        if split_of(asked) == "train":
            made.append(Shown(shown.clip, asked, mirrored, colours))
    return made


def judge_turns(clips: Frames, shown: Sequence[Shown], rng: np.random.Generator) -> list[Turn]:
    """For each clip shown its description, and for every second one a verdict on that.

    The scene of a verdict is the clip's own, or one that is nearly that of what the clip shows.
    """
    turns = []
    for first in range(0, len(shown), LABEL_BATCH):
        part = shown[first : first + LABEL_BATCH]
        seen = recognise(np.stack([one.of(clips) for one in part]))
        for number, (one, what) in enumerate(zip(part, seen, strict=True)):
            form = {"clip": one.clip, "mirrored": one.mirrored, "colours": tuple(one.colours)}
            turns.append(Turn(question=DESCRIBE, answer=what.caption, **form))
            if number % 2 == 0:
                turns.append(_verdict(one.asked, what, rng))
    return turns


def _verdict(own: Event, seen: Recognised, rng: np.random.Generator) -> Turn:
    shows = seen.event if seen.event is not None and seen.holds else own
    asked = own if rng.random() < 0.5 else near(shows, rng)
    question = JUDGE.format(context=language.describe(asked, rng), caption=seen.caption)
    return Turn(question=question, answer="Pass" if follows(asked, seen) else "Fail")


def near(event: Event, rng: np.random.Generator) -> Event:
    """A scene of the training split that differs from ``event`` in one attribute."""
    while True:
        other = list(NEAR.values())[rng.integers(len(NEAR))](event, rng)
        if other != event and split_of(other) == "train":
            return other


def _turned(clip: Frames, mirrored: bool, colours: Sequence[int]) -> Frames:
    clip = clip[:, :, ::-1] if mirrored else clip
    return clip if tuple(colours) == SAME else recoloured(clip, colours)


def _turned_event(event: Event, mirrored: bool, colours: Sequence[int]) -> Event:
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
    """Collates turns, as rows of a data set, into a batch."""

    comprehension: Comprehension
    clips: Frames

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """As ``batch_of``."""
        return batch_of(
            self.comprehension,
            [
                (turn.question, turn.answer, turn.of(self.clips) if turn.clip >= 0 else None)
                for turn in (Turn(**row) for row in rows)
            ],
        )


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
