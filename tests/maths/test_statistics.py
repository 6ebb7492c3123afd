import math

import pytest
import torch

from rlnsp.maths.statistics import standard_error


def test_the_standard_error_is_that_of_the_scenes_and_worked_out_by_hand():
    # Scenes of means 1, 2 and 6: mean 3, squared deviations 4 + 1 + 9 = 14, s = sqrt(14 / 2), over sqrt(3).
    scores = torch.tensor([0.0, 6.0, 2.0, 2.0, 2.0, 6.0])
    group = torch.tensor([0, 2, 0, 1, 1, 2])
    assert standard_error(scores, group) == pytest.approx(math.sqrt(7 / 3))


def test_samples_of_one_scene_make_it_no_surer():
    scores, group = torch.tensor([0.0, 1.0, 5.0]), torch.arange(3)
    assert standard_error(scores.repeat(4), group.repeat(4)) == pytest.approx(standard_error(scores, group))


def test_what_could_not_be_scored_is_left_out():
    scores, group = torch.tensor([0.0, 4.0, math.nan, math.nan]), torch.tensor([3, 1, 1, 7])
    assert standard_error(scores, group) == pytest.approx(2)  # of 0 and 4: s = sqrt(8), over sqrt(2)


@pytest.mark.parametrize("scores", [[1.0, 2.0], [1.0, math.nan], [math.nan, math.nan]])
def test_of_fewer_than_two_scenes_it_is_not_known(scores):
    group = torch.tensor([0, 0]) if scores == [1.0, 2.0] else torch.tensor([0, 1])
    assert math.isnan(standard_error(torch.tensor(scores), group))


def test_it_covers_the_mean_of_independent_scenes():
    generator = torch.Generator().manual_seed(0)
    group = torch.arange(10).repeat_interleave(4)
    inside = 0
    for _ in range(400):
        scene = torch.randn(10, generator=generator)
        scores = scene.repeat_interleave(4) + torch.randn(40, generator=generator)
        inside += abs(float(scores.mean())) < 2.262 * standard_error(scores, group)  # Student's t of 9
    assert inside / 400 == pytest.approx(0.95, abs=0.03)
