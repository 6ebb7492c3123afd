import numpy as np
import pytest

from rewards.temporal_flicker import TemporalFlicker
from rlnsp.testing import check_reward
from rlnsp.types import Sample, Scene


def score(*levels):
    frames = np.stack([np.full((4, 4, 3), level, np.uint8) for level in levels])
    return TemporalFlicker()([Sample(scene=Scene(id="a", context="A ball."), frames=frames, fps=8.0)])[0]


def test_it_is_vbenchs_share_of_255():
    # Steps of 51 and 0: a mean absolute error of 25.5; (255 - 25.5) / 255.
    assert score(0, 51, 51) == pytest.approx(0.9)
    assert score(51, 0, 0) == pytest.approx(0.9)


def test_a_still_clip_has_one_and_the_strongest_flicker_zero():
    assert score(7, 7, 7) == 1
    assert score(0, 255, 0) == 0


def test_a_single_frame_cannot_be_scored():
    assert score(7) is None


def test_true_next_scenes_beat_noisy_ones_and_the_seam_is_kept():
    check_reward(TemporalFlicker())
