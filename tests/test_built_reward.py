"""Only what a reward declares that it needs is made, and only that reaches it."""

from typing import Any

import numpy as np
import pytest
import torch

from rlnsp.built_reward import BuiltReward, build_rewards, check_scenes, from_function
from rlnsp.data import NUM_FUTURES, true_clips
from rlnsp.declaration import Declaration
from rlnsp.manifest import write_clip
from rlnsp.randomness import Randomness
from rlnsp.rollout import rollout
from rlnsp.scoring import score
from rlnsp.settings import ConfigError, RewardSlot, SamplerConfig
from rlnsp.testing import ToyPolicy
from rlnsp.types import Sample, Scene
from rlnsp.world import scenes

WORLD = scenes("train", 2, seed=0)
SAMPLES = [
    Sample(scene=scene, frames=np.full((2, 4, 4, 3), row, np.uint8), fps=8.0, latents=torch.full((6, 3), row))
    for scene in WORLD
    for row in (1.0, 2.0)
]


def with_needs(*needs):
    return BuiltReward(name="mine", call=lambda s: [0.0] * len(s), declaration=Declaration(needs=needs))


def test_a_reward_that_declares_nothing_sees_frames_alone():
    one = with_needs("frames").view(SAMPLES)[1]
    assert np.array_equal(one.frames, SAMPLES[1].frames)
    assert (one.fps, one.latents, one.context_frames, one.futures) == (8.0, None, None, None)
    undeclared = BuiltReward(name="mine", call=lambda s: [0.0] * len(s))
    assert undeclared.needs("frames")
    assert not undeclared.needs("latents")


def test_a_reward_of_latents_sees_no_frames_whatever_others_need():
    one: Any = with_needs("latents").view(SAMPLES)[1]
    assert torch.equal(one.latents, torch.full((6, 3), 2.0))
    assert one.frames.size == 0


def test_futures_are_the_clips_that_truly_follow():
    seen: list[Any] = with_needs("futures").view(SAMPLES)
    for one in seen:
        true: Any = true_clips(one.scene, NUM_FUTURES)
        assert np.array_equal(one.futures, true)
    assert seen[0].futures is seen[1].futures  # made once a scene


def test_a_context_clip_is_read_for_a_reward_that_needs_it(tmp_path):
    frames = np.full((3, 16, 16, 3), 128, np.uint8)
    write_clip(tmp_path / "before.mp4", frames, 8.0)
    scene = Scene(id="a", context="A ball.", context_clip=tmp_path / "before.mp4")
    sample = Sample(scene=scene, frames=frames, fps=8.0)
    one: Any = with_needs("context_clip").view([sample])[0]
    assert np.abs(one.context_frames.astype(int) - 128).max() <= 2


def test_a_function_gets_its_needs_as_columns():
    def of_all(latents, futures, id):
        return [float(x.sum()) + len(clips) for x, clips in zip(latents, futures, strict=True)]

    slot_free = BuiltReward(
        name="mine",
        call=from_function(of_all),
        declaration=Declaration(needs=("latents", "futures")),
    )
    expected = [18.0 + NUM_FUTURES, 36.0 + NUM_FUTURES] * 2
    assert score([slot_free], SAMPLES).raw["mine"].tolist() == expected


@pytest.mark.parametrize(
    ("need", "says"),
    [("context_clip", "'x' has no context_clip"), ("futures", "'x' has no video, the true next scene")],
)
def test_a_scene_without_what_is_needed_is_refused_before_anything_is_made(need, says):
    with pytest.raises(ConfigError, match=rf"rewards\.mine: scene {says}"):
        check_scenes([with_needs(need)], [Scene(id="x", context="Prices fell.")])


def test_scenes_of_the_world_have_futures():
    check_scenes([with_needs("futures")], WORLD)


def test_where_no_reward_needs_frames_nothing_is_decoded():
    class Blind(ToyPolicy):
        def decode(self, x, generator):
            raise AssertionError("decoded")

    policy = Blind(ToyPolicy.Config())
    made: Any = rollout(policy, WORLD, SamplerConfig(), 3, Randomness(seed=0), chunk_size=6, decode=False)
    seen = rollout(ToyPolicy(ToyPolicy.Config()), WORLD, SamplerConfig(), 3, Randomness(seed=0), chunk_size=6)
    assert torch.equal(made.latents, seen.latents)
    assert all(
        one.frames.size == 0 and torch.equal(one.latents, x)
        for one, x in zip(made.samples, made.latents, strict=True)
    )
    assert all(one.frames.size for one in seen.samples)


def test_settings_of_a_slot_reach_the_reward(plugin_file):
    slot = RewardSlot(use=f"{plugin_file}:plain", concurrency=3, timeout_s=2.0, retries=4, retry_wait_s=0.5)
    (built,) = build_rewards({"plain": slot})
    assert (built.concurrency, built.timeout_s, built.retries, built.retry_wait_s) == (3, 2.0, 4, 0.5)
    assert built.needs("frames")
