"""The settings that speed is measured at, by policy and shape."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from rlnsp import config
from rlnsp.opening import open_policy
from rlnsp.settings import RewardSlot, RunConfig, SamplerConfig, Slot, TrainerConfig, WindowConfig
from rlnsp.types import Scene
from rlnsp.world import scenes


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A run, and its policy ready."""

    policy: Any
    run: RunConfig

    @property
    def scenes(self) -> list[Scene]:
        """As many as an iteration has."""
        return scenes("train", self.run.trainer.scenes_per_iteration, 0)


def setting(policy: str, shape: str) -> Setting:
    """The setting of that name.

    Raises:
        SystemExit: there is none.
    """
    if (policy, shape) not in SHAPES:
        known = ", ".join(f"--policy {one} --shape {other}" for one, other in sorted(SHAPES))
        raise SystemExit(f"no setting --policy {policy} --shape {shape}; there are {known}")
    return SHAPES[policy, shape]()


def drawn(completions: Sequence[np.ndarray]) -> list[float]:
    """A reward in [0, 1) that is as good as random, and the same for the same clip.

    Where the judge would give clips of random weights one score, and so nothing to train on.
    """
    return [zlib.crc32(clip.tobytes()) / 2**32 for clip in completions]


DRAWN = "benchmarks.shapes:drawn"


def world() -> Setting:
    """The config ``world``, as it is, with its own judge."""
    return of_run(config.load("world", rewards=["nsp_reward"]))


def world_shared() -> Setting:
    """The embedded world with a noise a group, and two stochastic steps from the fourth of eight."""
    overrides = [
        "algorithm.use=grpo",
        "sampler.rule=cps",
        "sampler.same_noise=true",
        "sampler.window.start=3",
        "sampler.window.size=2",
    ]
    return of_run(config.load("world", overrides, [DRAWN]))


def of_run(run: RunConfig) -> Setting:
    """A run whose policy can be opened as its config says."""
    return Setting(policy=open_policy(run.policy), run=run)


def tiny_wan() -> Setting:
    """A random Wan of 1.2 M parameters, VAE 0.8 M: 9 frames of 64x64 are 48 latent tokens; 512 text tokens.

    4 scenes x 8 samples, each of its own noise, so that all are denoised whole: 8 steps, 2 of them trained.
    """
    from benchmarks.random_wan import TINY_TRANSFORMER, TINY_VAE, random_wan

    with TemporaryDirectory() as folder:
        random_wan(TINY_TRANSFORMER, TINY_VAE).save_pretrained(folder)
        clip = {"num_frames": 9, "height": 64, "width": 64}
        own = {"folder": folder, **clip, "max_length": 512, "lora": {"rank": 16}}
        return of_run(
            RunConfig(
                policy=Slot(use="wan", config=own),
                rewards={"drawn": RewardSlot(use=DRAWN)},
                algorithm=Slot(use="grpo"),
                sampler=SamplerConfig(
                    num_steps=8, rule="flow_sde", same_noise=False, window=WindowConfig(start=0, size=2)
                ),
                trainer=TrainerConfig(scenes_per_iteration=4, group_size=8, micro_batch_size=8),
            )
        )


def ltx_2b() -> Setting:
    """LTX-Video 2B's sizes, random weights in bf16: 65 frames of 480x832 are 3,510 tokens x 128 channels."""
    from benchmarks.random_ltx import SIZE_2B, random_ltx

    clip = {"num_frames": 65, "height": 480, "width": 832, "dtype": "bf16"}
    with TemporaryDirectory() as folder:
        random_ltx(Path(folder), SIZE_2B["transformer"], SIZE_2B["vae"])
        return ltx(folder, {**clip, "gradient_checkpointing": True, "decode_batch_size": 1})


def tiny_ltx() -> Setting:
    """The path of ``2b`` at a size for any machine: 9 frames of 64x64, random weights in bf16."""
    from benchmarks.random_ltx import SIZE_TINY, random_ltx

    clip = {"num_frames": 9, "height": 64, "width": 64, "dtype": "bf16"}
    with TemporaryDirectory() as folder:
        random_ltx(Path(folder), SIZE_TINY["transformer"], SIZE_TINY["vae"])
        return ltx(folder, {**clip, "gradient_checkpointing": True, "decode_batch_size": 1})


def ltx(folder: str, settings: Mapping[str, object]) -> Setting:
    """2 scenes x 4 samples from a noise a scene; 8 steps, 2 of them trained, from the fourth."""
    return of_run(
        RunConfig(
            policy=Slot(use="ltx_video", config={"folder": folder, "max_length": 160, **settings}),
            rewards={"drawn": RewardSlot(use=DRAWN)},
            algorithm=Slot(use="grpo"),
            sampler=SamplerConfig(num_steps=8, rule="cps", window=WindowConfig(start=3, size=2)),
            trainer=TrainerConfig(scenes_per_iteration=2, group_size=4, micro_batch_size=4),
        )
    )


SHAPES: dict[tuple[str, str], Callable[[], Setting]] = {
    ("ltx_video", "2b"): ltx_2b,
    ("ltx_video", "tiny"): tiny_ltx,
    ("wan", "tiny"): tiny_wan,
    ("world", "shared"): world_shared,
    ("world", "shipped"): world,
}
