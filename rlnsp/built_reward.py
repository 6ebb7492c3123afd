"""A config's reward slots -> rewards that are ready to be called, each with what it says of itself."""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rlnsp import plugins
from rlnsp.config import plugin_settings
from rlnsp.data import NUM_FUTURES, has_true_clips, true_clips
from rlnsp.declaration import PARAMETERS, Declaration, Need, declared
from rlnsp.lane import Lane
from rlnsp.manifest import read_clip
from rlnsp.protocols import ChecksScenes, KeepsRecord
from rlnsp.settings import ConfigError, RewardSlot
from rlnsp.types import NO_FRAMES, Sample, Scene

Answer = Sequence[float | BaseException | None]


@dataclass(frozen=True, kw_only=True)
class BuiltReward:
    """One entry of the config's ``rewards``, ready to be called."""

    name: str
    call: Callable[[Sequence[Sample]], Answer | Awaitable[Answer]]
    weight: float = 1.0
    on_failure: str = "raise"
    concurrency: int = 1
    timeout_s: float | None = None
    retries: int = 0
    retry_wait_s: float = 1.0
    declaration: Declaration = field(default_factory=Declaration)

    @cached_property
    def lane(self) -> Lane:
        """Where its calls run."""
        return Lane(self.name, self.concurrency)

    @property
    def is_async(self) -> bool:
        """It is a coroutine function, or a class with one as ``__call__``."""
        is_coroutine = inspect.iscoroutinefunction
        return is_coroutine(self.call) or is_coroutine(getattr(self.call, "__call__", None))  # noqa: B004

    async def ask(self, samples: Sequence[Sample]) -> Any:
        """Its answer, as it comes, to the samples as it declares that it needs to see them.

        On the event loop of ``rlnsp.lane.in_background``, and in a place of the reward's lane.

        Raises:
            TimeoutError: there was none in ``timeout_s``.
        """
        return await self.lane.run(
            lambda: self.call(self.view(samples)), in_thread=not self.is_async, timeout_s=self.timeout_s
        )

    def needs(self, need: Need) -> bool:
        """It is to be given that."""
        return need in (self.declaration.needs or ("frames",))

    def view(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples with what it declares that it needs, and nothing else."""
        scenes = {sample.scene.id: sample.scene for sample in samples}
        contexts = {id: _context_frames(scene) for id, scene in scenes.items() if self.needs("context_clip")}
        futures = {id: _futures(scene) for id, scene in scenes.items() if self.needs("futures")}
        frames = {} if self.needs("frames") else {"frames": NO_FRAMES, "fps": 0.0}
        latents = {} if self.needs("latents") else {"latents": None}
        return [
            replace(
                sample,
                context_frames=contexts.get(sample.scene.id),
                futures=futures.get(sample.scene.id),
                **frames,
                **latents,
            )
            for sample in samples
        ]


def build_rewards(slots: Mapping[str, RewardSlot]) -> list[BuiltReward]:
    """The rewards of a config, each a class with a ``Config`` or a plain function in TRL's form.

    Raises:
        ConfigError: one cannot be built; the message has its place in the config.
    """
    return [build_reward(name, slot) for name, slot in slots.items()]


def build_reward(name: str, slot: RewardSlot) -> BuiltReward:
    """One of them."""
    settings = plugin_settings("rewards", slot, where=f"rewards.{name}")
    found = plugins.find("rewards", slot.use)
    if isinstance(found, type):
        make: Callable[..., Any] = found
        try:
            call = make() if settings is None else make(settings)
        except ConfigError as error:
            raise ConfigError(f"rewards.{name}: {error}") from error
        declaration = declared(found)
    elif callable(found):
        call, declaration = from_function(found), declared(found)
    else:
        raise ConfigError(
            f"rewards.{name}.use: {slot.use} is a {type(found).__name__}; give a class or a function"
        )
    own = {f.name: getattr(slot, f.name) for f in fields(slot) if f.name not in {"use", "config"}}
    return BuiltReward(name=name, call=call, declaration=declaration, **own)


def check_scenes(rewards: Sequence[BuiltReward], scenes: Sequence[Scene]) -> None:
    """Ask the rewards that can tell whether they will be able to score these scenes.

    Raises:
        ConfigError: one cannot.
    """
    for reward in rewards:
        try:
            for scene in scenes:
                if reward.needs("context_clip") and scene.context_clip is None:
                    raise ValueError(f"scene {scene.id!r} has no context_clip, which it needs; name a file")
                if reward.needs("futures") and not has_true_clips(scene):
                    raise ValueError(f"scene {scene.id!r} has no video, the true next scene, which it needs")
            if isinstance(reward.call, ChecksScenes):
                reward.call.check_scenes(scenes)
        except ValueError as error:
            raise ConfigError(f"rewards.{reward.name}: {error}") from error


def keep_records(rewards: Sequence[BuiltReward], folder: Path) -> None:
    """Give the rewards that keep something with a run a folder each, by name.

    Raises:
        ConfigError: one does not fit what is kept there.
    """
    for reward in rewards:
        if isinstance(reward.call, KeepsRecord):
            try:
                reward.call.keep_in(folder / reward.name)
            except ValueError as error:
                raise ConfigError(f"rewards.{reward.name}: {error}") from error


def from_function(function: Callable[..., Any]) -> Callable[[Sequence[Sample]], Any]:
    """A reward out of ``f(prompts, completions, **columns)``, TRL's form; completions are the videos.

    Every column of the manifest comes as a list with one value a sample.  A function without ``**columns``
    gets those that it names.  A function that names neither ``completions`` nor another need is called with
    the samples.
    """
    parameters = inspect.signature(function).parameters
    if not set(PARAMETERS.values()) & set(parameters):
        return function
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def reward(samples: Sequence[Sample]) -> Any:
        columns = _columns(samples)
        named = columns if takes_all else {name: columns[name] for name in parameters if name in columns}
        return function(**named)

    async def asynchronous(samples: Sequence[Sample]) -> Any:
        return await reward(samples)

    return asynchronous if inspect.iscoroutinefunction(function) else reward


def _columns(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    scenes = [sample.scene for sample in samples]
    extra = {name for scene in scenes for name in scene.columns}
    columns = {name: [scene.columns.get(name) for scene in scenes] for name in sorted(extra)}
    own = [field.name for field in fields(Scene) if field.name not in ("columns", "limits")]
    columns |= {name: [getattr(scene, name) for scene in scenes] for name in own}
    made = {"completions": "frames"} | {
        name: name for name in ("fps", "latents", "context_frames", "futures")
    }
    columns |= {name: [getattr(sample, of) for sample in samples] for name, of in made.items()}
    columns["prompts"] = [scene.context for scene in scenes]
    return columns


def _context_frames(scene: Scene) -> np.ndarray | None:
    return scene.context_clip and read_clip(scene.context_clip, limits=scene.limits)[0]


def _futures(scene: Scene) -> np.ndarray | None:
    return true_clips(scene, NUM_FUTURES)
