import numpy as np
import pytest

from rewards.motion import Motion
from rlnsp.testing import check_reward
from rlnsp.types import Sample, Scene


def score(frames, **settings):
    sample = Sample(scene=Scene(id="a", context="A ball."), frames=np.asarray(frames, np.uint8), fps=8.0)
    return Motion(Motion.Config(**settings))([sample])[0]


def fading(*levels):
    """Frames of one grey each."""
    return np.stack([np.full((4, 4, 3), level) for level in levels])


def test_a_still_clip_and_a_single_frame_have_none():
    assert score(fading(9, 9, 9)) == 0
    assert score(fading(9)) == 0


def test_the_amount_is_the_mean_change_over_what_is_enough_and_no_more():
    # 51 of 255 a frame: m = 0.2, the same each frame.
    assert score(fading(0, 51, 102), enough=0.4) == pytest.approx(0.5)
    assert score(fading(0, 51, 102), enough=0.1) == 1
    assert score(fading(0, 102, 204), enough=0.1) == 1


def test_falling_values_are_motion_as_rising_ones_are():
    assert score(fading(102, 51, 0), enough=0.4) == pytest.approx(0.5)


def test_one_jump_has_an_evenness_of_one_over_the_number_of_steps():
    # m = (0, 0, 0.2, 0): mean 0.05, mean of squares 0.01; 0.05^2 / 0.01 = 1/4.
    assert score(fading(0, 0, 0, 51, 51), enough=0.01) == pytest.approx(0.25)


def test_true_next_scenes_beat_stills_and_the_seam_is_kept():
    check_reward(Motion(Motion.Config()))


@pytest.mark.parametrize("enough", [0, 1.5])
def test_what_is_enough_must_be_a_share(enough):
    with pytest.raises(ValueError, match="enough must be above 0 and at most 1"):
        Motion.Config(enough=enough)
