"""The settings that speed is measured at, by policy and shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

from policies.settings import Lora
from policies.wan import Wan
from rlnsp import config
from rlnsp.opening import open_policy
from rlnsp.settings import RunConfig, SamplerConfig, Slot, TrainerConfig, WindowConfig
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


def tiny_wan() -> Setting:
    """A random Wan of 1.2 M parameters, VAE 0.8 M: 9 frames of 64x64 are 48 latent tokens; 512 text tokens.

    4 scenes x 8 samples, each of its own noise, so that all are denoised whole: 8 steps, 2 of them trained.
    """
    from benchmarks.random_wan import TINY_TRANSFORMER, TINY_VAE, random_wan

    with TemporaryDirectory() as folder:
        random_wan(TINY_TRANSFORMER, TINY_VAE).save_pretrained(folder)
        config = Wan.Config(
            folder=folder, num_frames=9, height=64, width=64, max_length=512, lora=Lora(rank=16)
        )
        policy = Wan(config)
    return Setting(
        policy=policy,
        scenes=scenes("train", 4, 0),
        algorithm=Slot(use="grpo"),
        sampler=SamplerConfig(
            num_steps=8, rule="flow_sde", same_noise=False, window=WindowConfig(start=0, size=2)
        ),
        trainer=TrainerConfig(scenes_per_iteration=4, group_size=8, micro_batch_size=8),
    )


SHAPES: dict[tuple[str, str], Callable[[], Setting]] = {
    ("wan", "tiny"): tiny_wan,
    ("world", "shipped"): world,
}
