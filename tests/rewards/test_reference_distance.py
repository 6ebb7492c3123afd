import numpy as np
import pytest

from rewards.reference_distance import ReferenceDistance
from rlnsp.testing import check_reward
from rlnsp.types import Sample, Scene


def score(clip, *futures):
    scene = Scene(id="a", context="A ball.")
    frames, true = (np.asarray(one, np.uint8) for one in (clip, futures))
    return ReferenceDistance()([Sample(scene=scene, frames=frames, fps=8.0, futures=true)])[0]


GREY = np.full((2, 4, 4, 3), 100)


def test_a_true_future_has_zero_and_others_less_their_nearest_distance():
    assert score(GREY, GREY) == 0
    # 51 of 255 above one future, 102 below the other.
    assert score(GREY, GREY - 51, GREY + 102) == pytest.approx(-0.2)


def test_a_clip_of_another_size_cannot_be_scored():
    assert score(GREY, GREY[:1]) is None


def test_true_next_scenes_beat_all_faults_and_the_seam_is_kept():
    check_reward(ReferenceDistance())
