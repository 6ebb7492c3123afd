"""The embedded world's own judge: exact, and blind to everything but pixels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rewards.nsp_reward.judging import Decision, Mode
from rlnsp.types import Sample
from rlnsp.world import Tracker, Verdict
from rlnsp.world.language import parse


class TrackerJudge:
    """Captions from tracks of what moves; decides by named checks on the same tracks.

    Its checks are its checklist.  It has no probabilities: ``soft`` too is the share of checks that hold, and
    of two clips the one with the larger share wins.
    """

    def __init__(self, mode: Mode) -> None:
        self.graded = mode in ("soft", "checklist")
        self.tracker = Tracker()

    def check(self, context: str) -> None:
        """Raise UnknownContext, a ValueError, for a sentence that is not of the world."""
        parse(context)

    def decide(self, samples: Sequence[Sample]) -> list[Decision]:
        """All at once."""
        return [
            Decision(
                passed=verdict.passed,
                score=verdict.soft if self.graded else float(verdict.passed),
                caption=verdict.caption,
                checks=verdict.checks,
            )
            for verdict in self._verdicts(samples)
        ]

    def win_rates(self, group: Sequence[Sample]) -> list[float]:
        """A draw is half a win; a clip without others has nothing to lose to."""
        shares = np.array([verdict.soft for verdict in self._verdicts(group)])
        wins = np.sign(shares[:, None] - shares[None, :]) / 2 + 0.5
        others = max(len(shares) - 1, 1)
        return [float((row.sum() - 0.5) / others) if len(shares) > 1 else 0.5 for row in wins]

    def keep_in(self, folder: Path) -> None:
        """It needs nothing but itself."""

    def _verdicts(self, samples: Sequence[Sample]) -> list[Verdict]:
        frames = np.stack([sample.frames for sample in samples])
        return self.tracker.judge([sample.scene.context for sample in samples], frames)
