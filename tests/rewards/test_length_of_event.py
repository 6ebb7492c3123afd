import numpy as np
import pytest

from rewards.length_of_event import LengthOfEvent, num_steps
from rlnsp.testing import check_reward
from rlnsp.types import Sample, Scene
from rlnsp.world import futures

RED = (220, 40, 40)


def clip(places, size=11, light=230):
    """A red square with its left edge at each place, or none."""
    frames = np.full((len(places), 64, 64, 3), light, np.uint8)
    for frame, x in zip(frames, places, strict=True):
        if x is not None:
            frame[30 : 30 + size, x : x + size] = RED
    return frames


@pytest.mark.parametrize(
    ("places", "steps"),
    [
        ([5, 5, 5, 5, 5], 0),
        ([5, 5, 8, 11, 11], 2),
        ([5, 8, 8, 8, 11], 4),  # a pause is part of it
        ([None, None, 5, 5, 5], 1),  # it comes
        ([5, 6, 7, 8, 9], 0),  # a pixel a step is less than what trembles
    ],
)
def test_an_event_is_as_long_as_from_its_first_change_to_its_last(places, steps):
    assert num_steps(clip(places)[None]) == [steps]


def test_growing_and_the_light_are_changes():
    grows = np.stack([clip([5], size=size)[0] for size in (8, 8, 11, 14, 14)])
    assert num_steps(grows[None]) == [2]
    dims = np.stack([clip([None], light=level)[0] for level in (200, 200, 100, 100)])
    assert num_steps(dims[None]) == [1]


@pytest.mark.parametrize(
    ("context", "steps"),
    [
        ("A red block of ice warms quickly beside a blue heater on the left.", 4),
        ("A red block of ice warms slowly beside a blue heater on the left.", 8),
        ("It is dark; on the left someone quickly reaches to turn on a red lamp with a blue foot.", 2),
    ],
)
def test_true_clips_have_the_length_that_the_world_gives_them(context, steps):
    assert num_steps(futures(context, 3, seed=0)) == [steps] * 3


@pytest.mark.parametrize(("seconds", "score"), [(0.5, 1.0), (0.25, 0.0), (1.0, 0.5), (0.4, 0.75), (0.1, 0.0)])
def test_the_score_falls_from_one_at_the_wished_length_to_zero(seconds, score):
    moving = clip([5, 5, 8, 11, 14, 17, 17])  # 4 steps at 8 a second: 0.5 s
    sample = Sample(scene=Scene(id="a", context="A ball."), frames=moving, fps=8.0)
    reward = LengthOfEvent(LengthOfEvent.Config(seconds=seconds))
    assert reward([sample]) == [pytest.approx(score)]


def test_true_next_scenes_beat_stills_and_the_seam_is_kept():
    check_reward(LengthOfEvent(LengthOfEvent.Config(seconds=0.7)))


def test_scenes_of_another_world_are_refused():
    with pytest.raises(ValueError, match="scene 'a': "):
        LengthOfEvent(LengthOfEvent.Config(seconds=0.5)).check_scenes([Scene(id="a", context="A man sings.")])


def test_the_wished_length_must_be_positive():
    with pytest.raises(ValueError, match="seconds must be above 0; got 0"):
        LengthOfEvent.Config(seconds=0)
