"""Samples -> scores: every reward judges whole groups, while more are sampled; what a failure means."""

import inspect
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from tenacity import AsyncRetrying, retry_if_not_exception_type, stop_after_attempt, wait_random_exponential

from rlnsp.built_reward import BuiltReward, build_rewards, check_scenes, from_function, keep_records
from rlnsp.declaration import Need
from rlnsp.lane import in_background
from rlnsp.protocols import Explains
from rlnsp.redaction import redacted
from rlnsp.types import Explanation, Sample, Scores, Unscored, rows_by_scene

__all__ = [
    "BuiltReward",
    "Judging",
    "RewardFailed",
    "build_rewards",
    "check_scenes",
    "explain",
    "from_function",
    "keep_records",
    "score",
]

LONGEST_WAIT_S = 60.0
"""Before a retry."""


class RewardFailed(RuntimeError):
    """A reward gave no usable answer; the message names it, the scene and the cause."""


class BadAnswer(ValueError):
    """A reward answered with something else than a list of a number or None a sample."""


def score(rewards: Sequence[BuiltReward], samples: Sequence[Sample], max_drop_share: float = 1.0) -> Scores:
    """Every reward's raw score of every sample; see ``Judging``."""
    judging = Judging(rewards)
    judging.take(samples)
    return judging.scores(max_drop_share)


class Judging:
    """The judgement of an iteration's samples: under way from the moment that they are taken.

    A sample that its reward answered None or ``Unscored`` for is unscored and leaves its group.  A call that
    raises, takes too long, or answers with something else than a list of a value a sample has failed, and is
    made again as often as the reward's ``retries`` say.  A value that is another exception or is not finite
    has failed too.
    With ``on_failure`` raise the run stops; with drop, the samples concerned are unscored: for a call that
    raised, the scenes that fail when they are judged one at a time.
    """

    def __init__(
        self, rewards: Sequence[BuiltReward], gather: Callable[[Scores], Scores] | None = None
    ) -> None:
        """Nothing is under way yet.

        Args:
            rewards: each judges every sample.
            gather: makes of the scores of the samples taken here those of all processes' samples.
        """
        self.rewards, self.gather = rewards, gather
        self._count = 0
        self._calls: list[tuple[BuiltReward, list[int], Future[_Judgement]]] = []

    def needs(self, need: Need) -> bool:
        """Some reward does."""
        return any(reward.needs(need) for reward in self.rewards)

    def take(self, samples: Sequence[Sample]) -> None:
        """Set every reward going on whole groups; returns at once.

        Raises:
            RewardFailed: on samples that were taken before.
        """
        for reward in self.rewards:
            one_call = [list(range(len(samples)))]
            for rows in one_call if reward.concurrency == 1 else rows_by_scene(samples):
                call = in_background(_judge(reward, [samples[row] for row in rows]))
                self._calls.append((reward, [self._count + row for row in rows], call))
        self._count += len(samples)
        for _, _, call in self._calls:
            if call.done():
                call.result()

    def scores(self, max_drop_share: float = 1.0) -> Scores:
        """Wait for the rest.

        Raises:
            RewardFailed: a reward failed; or more than ``max_drop_share`` of the samples went unscored.
        """
        raw = {reward.name: torch.full((self._count,), math.nan) for reward in self.rewards}
        seconds = dict.fromkeys(raw, 0.0)
        errors: dict[str, str] = {}
        for reward, rows, call in self._calls:
            judgement = call.result()
            raw[reward.name][rows] = torch.tensor(judgement.values, dtype=torch.float32)
            seconds[reward.name] += judgement.seconds
            if judgement.errors:
                errors[reward.name] = judgement.errors[-1]
        weights = {reward.name: reward.weight for reward in self.rewards}
        found = Scores(raw=raw, weights=weights, seconds=seconds, errors=errors)
        found = self.gather(found) if self.gather else found
        dropped = 1 - float(found.scored.float().mean())
        if dropped > max_drop_share:
            raise RewardFailed(_too_many(found, dropped, max_drop_share))
        return found


def explain(rewards: Sequence[BuiltReward], samples: Sequence[Sample]) -> list[dict[str, Explanation]]:
    """Why each sample was scored as it was, by the names of the rewards that say so; a mapping a sample.

    Raises:
        RewardFailed: a reward's ``explain`` failed, with ``on_failure`` raise; with drop it says nothing.
    """
    found: list[dict[str, Explanation]] = [{} for _ in samples]
    for reward in rewards:
        if not samples or not isinstance(reward.call, Explains):
            continue
        try:
            paired = list(zip(found, _reasons(reward, reward.call, samples), strict=True))
        except Exception as error:  # as in ``_judge``
            _failed(reward, "explain", error)
            continue
        for said, explanation in paired:
            if explanation is not None:
                said[reward.name] = explanation
    return found


def _reasons(reward: BuiltReward, call: Explains, samples: Sequence[Sample]) -> Any:
    blocks = not inspect.iscoroutinefunction(call.explain)
    seen = reward.view(samples)
    return in_background(reward.lane.run(lambda: call.explain(seen), in_thread=blocks)).result()


@dataclass(kw_only=True)
class _Judgement:
    """What came of one call."""

    values: list[float]
    """NaN where unscored."""
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0


async def _judge(reward: BuiltReward, samples: Sequence[Sample]) -> _Judgement:
    """Call, call again, and at last call scene by scene."""
    judgement = _Judgement(values=[])
    try:
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(reward.retries + 1),
            wait=wait_random_exponential(multiplier=reward.retry_wait_s, max=LONGEST_WAIT_S),
            retry=retry_if_not_exception_type(RewardFailed),
            reraise=True,
        ):
            with attempt:
                judgement.values = await _call(reward, samples, judgement)
    except RewardFailed:
        raise
    except Exception as error:  # anything at all may come out of a stranger's code
        judgement.values = await _scene_by_scene(reward, samples, judgement, error)
    return judgement


async def _scene_by_scene(
    reward: BuiltReward, samples: Sequence[Sample], judgement: _Judgement, first: Exception
) -> list[float]:
    """Find the scenes that a reward fails on; after a timeout or a bad answer it is all of them.

    Raises:
        RewardFailed: ``on_failure`` is raise.
    """
    groups = rows_by_scene(samples)
    values = [math.nan] * len(samples)
    if len(groups) == 1 or isinstance(first, TimeoutError | BadAnswer):
        where = f"scene {samples[0].scene.id!r}" if len(groups) == 1 else f"a call of {len(groups)} scenes"
        judgement.errors.append(_failed(reward, where, first))
        return values
    for rows in groups:
        group = [samples[row] for row in rows]
        try:
            for row, value in zip(rows, await _call(reward, group, judgement), strict=True):
                values[row] = value
        except RewardFailed:
            raise
        except Exception as error:  # as above
            judgement.errors.append(_failed(reward, f"scene {group[0].scene.id!r}", error))
    if reward.on_failure == "raise":
        _failed(reward, "all scenes at once, though on none alone", first)
    return values


async def _call(reward: BuiltReward, samples: Sequence[Sample], judgement: _Judgement) -> list[float]:
    """One call; one value a sample, NaN where unscored."""
    async with reward.lane.place:
        start = time.perf_counter()
        try:
            answer = await reward.ask(samples)
        finally:
            judgement.seconds += time.perf_counter() - start
    try:
        values = list(answer)
    except TypeError as error:
        raise BadAnswer(f"must return a list, a number a sample; got {type(answer).__name__}") from error
    if len(values) != len(samples):
        raise BadAnswer(
            f"returned {len(values)} values for {len(samples)} samples; "
            "return one a sample, in order, and None for one that cannot be scored"
        )
    return [_number(reward, one, value, judgement) for one, value in zip(samples, values, strict=True)]


def _number(reward: BuiltReward, sample: Sample, value: Any, judgement: _Judgement) -> float:
    if value is None:
        return math.nan
    if isinstance(value, Unscored):
        judgement.errors.append(redacted(f"scene {sample.scene.id!r}: {value}"))
        return math.nan
    try:
        if isinstance(value, BaseException):
            raise value
        number = float(value)
        if math.isfinite(number):
            return number
        error: Exception = BadAnswer(f"a score must be finite; got {value!r}")
    except Exception as raised:  # as above: a stranger's value
        error = raised if value is raised else BadAnswer(f"a score must be a number or None; got {value!r}")
    judgement.errors.append(_failed(reward, f"scene {sample.scene.id!r}", error))
    return math.nan


def _failed(reward: BuiltReward, where: str, error: Exception) -> str:
    """What is said of a failure.

    Raises:
        RewardFailed: ``on_failure`` is raise.
    """
    match error:
        case BadAnswer():
            what = str(error)
        case TimeoutError() if reward.timeout_s and not str(error):
            what = f"no answer in {reward.timeout_s:g} s"
        case _:
            what = f"{type(error).__name__}: {error}"
    said = redacted(f"{where}: {what}")
    if reward.on_failure == "drop":
        return said
    raise RewardFailed(
        f"reward {reward.name!r} failed on {said}. "
        f"Repair it, or set rewards.{reward.name}.on_failure=drop to leave such samples out"
    ) from error


def _too_many(scores: Scores, dropped: float, allowed: float) -> str:
    counts = ", ".join(f"{name} {int(values.isnan().sum())}" for name, values in scores.raw.items())
    errors = "".join(f". The last error of {name}: {error}" for name, error in scores.errors.items())
    return (
        f"{dropped:.0%} of {len(scores.scored)} samples could not be scored (by reward: {counts}); at most "
        f"{allowed:.0%} may: repair what fails, or raise trainer.max_drop_share{errors}"
    )
