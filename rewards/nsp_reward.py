"""Causal consistency: does what the video shows follow from the preceding scene?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rlnsp.declaration import declares
from rlnsp.types import Explanation, Sample, Scene
from rlnsp.world import Tracker
from rlnsp.world.language import parse


class Decision(Protocol):
    """What a judge thinks of one clip."""

    @property
    def passed(self) -> bool:
        """The clip is causally consistent with its preceding scene."""
        ...

    @property
    def soft(self) -> float:
        """How far it is, in [0, 1]; 1 if and only if it passed."""
        ...

    @property
    def caption(self) -> str:
        """What the clip shows, in words."""
        ...

    @property
    def checks(self) -> Mapping[str, bool]:
        """What was looked at, by name, and whether it holds."""
        ...


class Judge(Protocol):
    """The two calls of the paper: caption the clip, then decide on the caption."""

    def check(self, context: str) -> None:
        """Raise ValueError if it could not judge what follows ``context``."""
        ...

    def decide(self, contexts: Sequence[str], frames: NDArray[np.uint8]) -> Sequence[Decision]:
        """A decision for each preceding scene and its clip, frames (B, F, H, W, 3)."""
        ...


class TrackerJudge:
    """The embedded world's own judge: exact, and blind to everything but pixels."""

    def __init__(self) -> None:
        self.tracker = Tracker()

    def check(self, context: str) -> None:
        """Raise UnknownContext, a ValueError, for a sentence that is not of the world."""
        parse(context)

    def decide(self, contexts: Sequence[str], frames: NDArray[np.uint8]) -> Sequence[Decision]:
        """Captions from tracks of what moves; decides by named checks on the same tracks."""
        return self.tracker.judge(contexts, frames)


@declares(range=(0, 1), tells=("shuffled", "static", "noisy"))
class NSPReward:
    """1 where a judge finds the clip causally consistent with the preceding scene, else 0 (arXiv:2512.13015).

    A judge captions the generated video, then decides whether the caption follows from the preceding scene.
    Nothing else is mixed in.  In [0, 1].
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The paper's reward is binary."""

        judge: Literal["tracker"] = "tracker"
        """``tracker``: of the embedded world, in place of the paper's Claude 3.7 Sonnet."""
        soft: bool = False
        """In place of pass or fail, the share of the judge's checks that hold: more groups have a spread."""

    def __init__(self, config: Config) -> None:
        self.soft = config.soft
        self.judge: Judge = TrackerJudge()

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        """One score a sample."""
        return [decision.soft if self.soft else float(decision.passed) for decision in self._decide(samples)]

    def explain(self, samples: Sequence[Sample]) -> list[Explanation]:
        """The judge's caption, its verdict, and the checks that it rests on."""
        return [
            Explanation(
                verdict="consistent" if decision.passed else "not consistent",
                passed=decision.passed,
                caption=decision.caption,
                checks=decision.checks,
            )
            for decision in self._decide(samples)
        ]

    def check_scenes(self, scenes: Sequence[Scene]) -> None:
        """Raise ValueError for the first scene that the judge could not judge."""
        for scene in scenes:
            try:
                self.judge.check(scene.context)
            except ValueError as error:
                raise ValueError(f"scene {scene.id!r}: {error}") from error

    def _decide(self, samples: Sequence[Sample]) -> Sequence[Decision]:
        frames = np.stack([sample.frames for sample in samples])
        return self.judge.decide([sample.scene.context for sample in samples], frames)
