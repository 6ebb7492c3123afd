"""Who makes the clips of a row: a policy; a model from elsewhere, by its files; or nobody, as a baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Generator

from rlnsp import config
from rlnsp.benchmark.meter import Meter
from rlnsp.evaluate import MakeClips, by_policy, sampled_how
from rlnsp.manifest import read_clip, read_manifest
from rlnsp.opening import check_can_make, is_run, open_policy
from rlnsp.precision import in_precision
from rlnsp.settings import RunConfig, require
from rlnsp.types import Sample, Scene

STILL = "context frame"
"""The row of the baseline whose clip is the last frame of the preceding scene's."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of the table."""

    name: str
    open: Callable[[], tuple[MakeClips, Meter | None]]
    """Loads the weights; the meter is that of the clips' making, None where they are not made here."""
    how: dict[str, Any]
    """How its clips are made, for the record."""
    notes: list[str] = field(default_factory=list)
    """What a reader of its row must know."""


def policy_entry(given: str, run: RunConfig, scenes: Sequence[Scene]) -> Entry:
    """A policy, as ``[NAME=]WHERE``: a run folder, a policy folder, or the YAML of a policy's slot.

    To open it raises ConfigError where it cannot make clips of the scenes.
    """
    name, where = _named(given)

    def opened() -> tuple[MakeClips, Meter]:
        bare = open_policy(run.policy, where)
        check_can_make(bare, scenes)
        policy = in_precision(bare, run.trainer.precision)
        meter = Meter(next(policy.named_trainable())[1].device)
        make = by_policy(policy, run.sampler, run.evaluation, run.trainer.micro_batch_size)
        return meter.around(make), meter

    how = {"policy": where, **sampled_how(run.sampler, run.evaluation), "weights": "live"}
    return Entry(name=name, open=opened, how=how, notes=_trained_on(where, run))


def clips_entry(given: str, scenes: Sequence[Scene]) -> Entry:
    """Clips from elsewhere, as ``NAME=MANIFEST``, a ``video`` for each scene's id.

    Raises:
        ConfigError: a scene has none.
    """
    name, where = _named(given)
    require(name != where, f"--clips {given}: give them a name, as NAME=MANIFEST")
    videos = {scene.id: scene.video for scene in read_manifest(where)}
    missing = [scene.id for scene in scenes if videos.get(scene.id) is None]
    require(
        not missing,
        f"--clips {given}: no video of {len(missing)} of {len(scenes)} scenes, of {', '.join(missing[:3])} "
        "for one; add their lines, or lower evaluation.num_scenes",
    )

    def make(part: Sequence[Scene], generator: Generator, own: Sequence[int]) -> list[Sample]:
        scenes = [part[row] for row in own]
        return [_sample(scene, *read_clip(Path(str(videos[scene.id])))) for scene in scenes]

    return Entry(name=name, open=lambda: (make, None), how={"clips": where})


def still_entry(scenes: Sequence[Scene]) -> Entry:
    """The last frame of the preceding scene's clip, for as long as that clip: nothing happens.

    Raises:
        ConfigError: a scene has no such clip.
    """
    without = [scene.id for scene in scenes if scene.context_clip is None]
    require(
        not without,
        f"--copy-context: {len(without)} of {len(scenes)} scenes have no context_clip, such as "
        f"{without and without[0]!r}; give scenes with preceding clips, or leave the baseline out",
    )

    def make(part: Sequence[Scene], generator: Generator, own: Sequence[int]) -> list[Sample]:
        made = []
        for scene in [part[row] for row in own]:
            frames, fps = read_clip(Path(str(scene.context_clip)), limits=scene.limits)
            made.append(_sample(scene, np.repeat(frames[-1:], len(frames), 0), fps))
        return made

    return Entry(name=STILL, open=lambda: (make, None), how={"clips": "the context's last frame"})


def _sample(scene: Scene, frames: np.ndarray, fps: float) -> Sample:
    return Sample(scene=scene, frames=frames, fps=fps)


def _named(given: str) -> tuple[str, str]:
    """Name and place; what is there as it is written has no name of its own."""
    name, equals, where = given.partition("=")
    return (name, where) if equals and not Path(given).exists() else (given, given)


def _trained_on(where: str, run: RunConfig) -> list[str]:
    """Where a run's own rewards are among the measures: a policy learns whatever its judge lets pass."""
    if not is_run(where):
        return []
    notes = []
    rewards = config.load_typed(RunConfig, Path(where) / "config.yaml").rewards.values()
    for measure, slot in run.rewards.items():
        for reward in rewards:
            if not reward.weight or reward.use != slot.use:
                continue
            here, there = (config.flat(one.config) for one in (slot, reward))
            other = [
                f"{key} {there.get(key)} instead of {here.get(key)}"
                for key in dict.fromkeys([*there, *here])
                if there.get(key) != here.get(key)
            ]
            notes.append(f"trained on {measure}'s {slot.use}, with {', '.join(other) or 'the same settings'}")
    return notes
