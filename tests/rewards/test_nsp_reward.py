import numpy as np
import pytest

from rewards.nsp_reward import NSPReward
from rlnsp.protocols import Explains
from rlnsp.testing import check_reward
from rlnsp.types import Sample, Scene
from rlnsp.world import FPS, Tracker, UnknownContext, futures, scenes

SCENES = scenes("heldout", 14, 0)


def samples(clip_of):
    return [Sample(scene=scene, frames=clip_of(i, scene), fps=FPS) for i, scene in enumerate(SCENES)]


def true(i, scene):
    return futures(scene.context, 1, i)[0]


def still(i, scene):
    return np.repeat(true(i, scene)[:1], 9, axis=0)


def test_true_futures_pass_and_static_ones_fail():
    reward = NSPReward(NSPReward.Config())
    assert reward(samples(true)) == [1.0] * 14
    assert reward(samples(still)) == [0.0] * 14


def test_the_soft_score_is_the_share_of_checks_that_hold():
    soft = NSPReward(NSPReward.Config(mode="soft"))
    clips = samples(still)
    verdicts = Tracker().judge([one.scene.context for one in clips], np.stack([one.frames for one in clips]))
    expected = [sum(v.checks.values()) / len(v.checks) for v in verdicts]
    assert soft(clips) == pytest.approx(expected)
    assert soft(samples(true)) == [1.0] * 14


def test_the_reward_says_why():
    reward = NSPReward(NSPReward.Config())
    assert isinstance(reward, Explains)
    held, failed = reward.explain([samples(true)[0], samples(still)[0]])
    assert (held.passed, held.verdict) == (True, "consistent")
    assert all(held.checks.values())
    assert (failed.passed, failed.verdict) == (False, "not consistent")
    assert not all(failed.checks.values())
    assert held.caption != failed.caption


@pytest.mark.parametrize("mode", ["binary", "soft", "checklist", "pairwise"])
def test_nsp_reward_keeps_to_the_seam(mode):
    reward = NSPReward(NSPReward.Config(mode=mode))
    check_reward(reward, [*samples(true)[:3], *samples(still)[3:6]])


def test_a_context_that_the_judge_cannot_read_is_refused_by_scene():
    reward = NSPReward(NSPReward.Config())
    reward.check_scenes(SCENES)
    odd = Scene(id="odd", context="A frozen river begins to crack.")
    with pytest.raises(ValueError, match="scene 'odd': not a preceding scene of the embedded world"):
        reward.check_scenes([*SCENES, odd])
    with pytest.raises(UnknownContext):
        reward([Sample(scene=odd, frames=np.zeros((9, 64, 64, 3), np.uint8), fps=FPS)])
