"""The settings that speed is measured at, by policy and shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rlnsp import config
from rlnsp.opening import open_policy
from rlnsp.settings import RunConfig, SamplerConfig, Slot, TrainerConfig
from rlnsp.types import Scene
from rlnsp.world import scenes


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One iteration's worth of work."""

    policy: Any
    scenes: list[Scene]
    algorithm: Slot
    sampler: SamplerConfig
    trainer: TrainerConfig

    @property
    def group_size(self) -> int:
        """Samples a scene."""
        return self.trainer.group_size


def setting(policy: str, shape: str) -> Setting:
    """The setting of that name.

    Raises:
        SystemExit: there is none.
    """
    if (policy, shape) not in SHAPES:
        known = ", ".join(f"--policy {one} --shape {other}" for one, other in sorted(SHAPES))
        raise SystemExit(f"no setting --policy {policy} --shape {shape}; there are {known}")
    return SHAPES[policy, shape]()


def world() -> Setting:
    """The config ``world``, as it is."""
    return of_run(config.load("world"))


def of_run(run: RunConfig) -> Setting:
    """An iteration of a run on the embedded world."""
    return Setting(
        policy=open_policy(run.policy),
        scenes=scenes("train", run.trainer.scenes_per_iteration, 0),
        algorithm=run.algorithm,
        sampler=run.sampler,
        trainer=run.trainer,
    )


SHAPES: dict[tuple[str, str], Callable[[], Setting]] = {("world", "shipped"): world}
