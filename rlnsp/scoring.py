"""Rewards -> scores: finds and builds them, calls each on whole groups, and decides what a failure means."""

import asyncio
import inspect
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rlnsp import plugins
from rlnsp.config import ConfigError, plugin_settings
from rlnsp.protocols import Explains
from rlnsp.settings import RewardSlot
from rlnsp.types import Explanation, Sample, Scene, Scores

Answer = Sequence[float | None]


class RewardFailed(RuntimeError):
    """A reward gave no usable answer; the message names it, the scene and the cause."""


@runtime_checkable
class ChecksScenes(Protocol):
    """What a reward may have beside ``__call__``: a look at the scenes before anything is generated."""

    def check_scenes(self, scenes: Sequence[Scene]) -> None:
        """Raise ValueError, in one line with the remedy, if it could not score a clip of one of them."""
        ...


@dataclass(frozen=True, kw_only=True)
class BuiltReward:
    """One entry of the config's ``rewards``, ready to be called."""

    name: str
    call: Callable[[Sequence[Sample]], Answer | Awaitable[Answer]]
    weight: float = 1.0
    on_failure: str = "raise"


def build_rewards(slots: Mapping[str, RewardSlot]) -> list[BuiltReward]:
    """The rewards of a config, each a class with a ``Config`` or a plain function in TRL's form."""
    return [
        BuiltReward(name=name, call=_build(name, slot), weight=slot.weight, on_failure=slot.on_failure)
        for name, slot in slots.items()
    ]


def check_scenes(rewards: Sequence[BuiltReward], scenes: Sequence[Scene]) -> None:
    """Ask the rewards that can tell whether they will be able to score these scenes.

    Raises:
        ConfigError: one cannot.
    """
    for reward in rewards:
        if isinstance(reward.call, ChecksScenes):
            try:
                reward.call.check_scenes(scenes)
            except ValueError as error:
                raise ConfigError(f"rewards.{reward.name}: {error}") from error


def score(rewards: Sequence[BuiltReward], samples: Sequence[Sample], max_drop_share: float = 1.0) -> Scores:
    """Every reward's raw score of every sample.  Asynchronous rewards run while the others do.

    A sample that its reward answered None for is unscored and leaves its group.  A reward that raises, or
    answers with a number that is not finite, has failed: with ``on_failure`` raise the run stops; with drop,
    the samples concerned are unscored (for an exception: the scenes that raise when called one at a time).

    Raises:
        RewardFailed: a reward failed; or more than ``max_drop_share`` of the samples went unscored.
    """
    started = [(reward, time.perf_counter(), _start(reward, samples)) for reward in rewards]
    raw: dict[str, Tensor] = {}
    seconds: dict[str, float] = {}
    for reward, start, pending in started:
        try:
            raw[reward.name] = _checked(reward, samples, pending())
        except RewardFailed:
            raise
        except Exception as error:  # anything at all may come out of a stranger's code
            raw[reward.name] = _scene_by_scene(reward, samples, error)
        seconds[reward.name] = time.perf_counter() - start
    scores = Scores(raw=raw, weights={reward.name: reward.weight for reward in rewards}, seconds=seconds)
    dropped = 1 - float(scores.scored.float().mean())
    if dropped > max_drop_share:
        counts = ", ".join(f"{name} {int(values.isnan().sum())}" for name, values in raw.items())
        raise RewardFailed(
            f"{dropped:.0%} of {len(samples)} samples could not be scored (by reward: {counts}); at most "
            f"{max_drop_share:.0%} may: repair what fails, or raise trainer.max_drop_share"
        )
    return scores


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
            answer: Any = reward.call.explain(samples)
            if inspect.isawaitable(answer):
                answer = _in_background(_awaited(answer)).result()
            paired = list(zip(found, answer, strict=True))
        except Exception as error:  # as in ``score``
            if reward.on_failure == "raise":
                raise RewardFailed(_failure(reward, "explain", error)) from error
            continue
        for said, explanation in paired:
            if explanation is not None:
                said[reward.name] = explanation
    return found


def _build(name: str, slot: RewardSlot) -> Callable[[Sequence[Sample]], Answer | Awaitable[Answer]]:
    settings = plugin_settings("rewards", slot, where=f"rewards.{name}")
    found = plugins.find("rewards", slot.use)
    if isinstance(found, type):
        make: Callable[..., Any] = found
        return make() if settings is None else make(settings)
    if not callable(found):
        raise ConfigError(
            f"rewards.{name}.use: {slot.use} is a {type(found).__name__}; give a class or a function"
        )
    return from_function(found)


def from_function(function: Callable[..., Any]) -> Callable[[Sequence[Sample]], Any]:
    """A reward out of ``f(prompts, completions, **columns)``, TRL's form; completions are the videos.

    Every column of the manifest comes as a list with one value a sample.  A function without ``**columns``
    gets those that it names.  A function without ``completions`` is called with the samples.
    """
    parameters = inspect.signature(function).parameters
    if "completions" not in parameters:
        return function
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def reward(samples: Sequence[Sample]) -> Any:
        columns = _columns(samples)
        named = columns if takes_all else {name: columns[name] for name in parameters if name in columns}
        return function(**named)

    return reward


def _columns(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    scenes = [sample.scene for sample in samples]
    extra = {name for scene in scenes for name in scene.columns}
    columns = {name: [scene.columns.get(name) for scene in scenes] for name in sorted(extra)}
    own = [field.name for field in fields(Scene) if field.name != "columns"]
    columns |= {name: [getattr(scene, name) for scene in scenes] for name in own}
    columns["fps"] = [sample.fps for sample in samples]
    columns["prompts"] = [scene.context for scene in scenes]
    columns["completions"] = [sample.frames for sample in samples]
    return columns


def _start(reward: BuiltReward, samples: Sequence[Sample]) -> Callable[[], Answer]:
    """Set an asynchronous reward going at once; a plain one runs when its turn comes."""
    if not _is_async(reward.call):
        return lambda: _answer(reward, samples)
    return _in_background(_awaited(reward.call(samples))).result  # type: ignore[arg-type]


def _answer(reward: BuiltReward, samples: Sequence[Sample]) -> Answer:
    answer = reward.call(samples)
    return _in_background(_awaited(answer)).result() if inspect.isawaitable(answer) else answer


def _is_async(call: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004


async def _awaited(answer: Awaitable[Answer]) -> Answer:
    return await answer


def _in_background(coroutine: Any) -> "Future[Answer]":
    return asyncio.run_coroutine_threadsafe(coroutine, _loop())


@lru_cache(maxsize=1)
def _loop() -> asyncio.AbstractEventLoop:
    # One loop for the life of the process: clients keep connections that belong to the loop of their opening.
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="rlnsp-rewards", daemon=True).start()
    return loop


def _checked(reward: BuiltReward, samples: Sequence[Sample], answer: Any) -> Tensor:
    """(B,) fp32, NaN where unscored."""
    try:
        values = list(answer)
    except TypeError as error:
        got = type(answer).__name__
        raise RewardFailed(
            f"reward {reward.name!r} must return a list, a number a sample; got {got}"
        ) from error
    if len(values) != len(samples):
        raise RewardFailed(
            f"reward {reward.name!r} returned {len(values)} values for {len(samples)} samples; "
            "return one a sample, in order, and None for one that cannot be scored"
        )
    return torch.tensor(
        [_number(reward, sample, value) for sample, value in zip(samples, values, strict=True)],
        dtype=torch.float32,
    )


def _number(reward: BuiltReward, sample: Sample, value: Any) -> float:
    if value is None:
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise RewardFailed(
            f"reward {reward.name!r}, scene {sample.scene.id!r}: "
            f"a score must be a number or None; got {value!r}"
        ) from error
    if math.isfinite(number):
        return number
    if reward.on_failure == "drop":
        return math.nan
    raise RewardFailed(
        f"reward {reward.name!r}, scene {sample.scene.id!r}: a score must be finite; got {value!r}. "
        f"Return None for a sample that cannot be scored, or set rewards.{reward.name}.on_failure=drop"
    )


def _scene_by_scene(reward: BuiltReward, samples: Sequence[Sample], first: Exception) -> Tensor:
    """Find the scenes that a reward raises on.

    Raises:
        RewardFailed: ``on_failure`` is raise.
    """
    values = torch.full((len(samples),), math.nan)
    for scene_id, rows in _by_scene(samples):
        part = [samples[row] for row in rows]
        try:
            values[rows] = _checked(reward, part, _answer(reward, part))
        except RewardFailed:
            raise
        except Exception as error:  # as above
            if reward.on_failure == "raise":
                raise RewardFailed(_failure(reward, f"scene {scene_id!r}", error)) from error
    if reward.on_failure == "raise":
        raise RewardFailed(_failure(reward, "all scenes at once, though on none alone", first)) from first
    return values


def _failure(reward: BuiltReward, where: str, error: Exception) -> str:
    return (
        f"reward {reward.name!r} failed on {where}: {type(error).__name__}: {error}. "
        f"Repair it, or set rewards.{reward.name}.on_failure=drop to leave such samples out"
    )


def _by_scene(samples: Sequence[Sample]) -> Iterator[tuple[str, list[int]]]:
    rows: dict[str, list[int]] = {}
    for row, sample in enumerate(samples):
        rows.setdefault(sample.scene.id, []).append(row)
    yield from rows.items()
