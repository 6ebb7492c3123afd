import math

import pytest
import torch

from rlnsp.maths.calibration import brier_score, cohens_kappa, expected_calibration_error, reliability


def test_the_brier_score_is_worked_out_by_hand():
    # (0.9 - 1)^2 = 0.01, (0.4 - 0)^2 = 0.16, (0 - 1)^2 = 1; their mean is 1.17 / 3.
    said, true = torch.tensor([0.9, 0.4, 0.0]), torch.tensor([True, False, True])
    assert brier_score(said, true) == pytest.approx(0.39)


def test_bins_hold_what_is_said_and_what_is_so():
    said = torch.tensor([0.0, 0.1, 0.15, 1.0, 0.95], dtype=torch.float64)
    true = torch.tensor([False, True, False, True, False])
    bins = reliability(said, true)
    assert [one.count for one in bins] == [1, 2, 0, 0, 0, 0, 0, 0, 0, 2]  # 1.0 belongs to the last
    assert (bins[1].low, bins[1].high) == (0.1, 0.2)
    assert bins[1].probability == pytest.approx(0.125)
    assert bins[1].passed == 0.5
    assert math.isnan(bins[4].passed)
    # 1/5 |0 - 0| + 2/5 |0.5 - 0.125| + 2/5 |0.5 - 0.975|
    assert expected_calibration_error(bins) == pytest.approx(0.4 * 0.375 + 0.4 * 0.475)


def test_a_calibrated_judge_has_no_error():
    said = torch.tensor([0.25, 0.25, 0.25, 0.25])
    assert expected_calibration_error(reliability(said, torch.tensor([True, False, False, False]))) == 0


def test_kappa_is_agreement_beyond_chance():
    # Cohen's table 20 / 5 / 10 / 15: p_o = 0.7, p_e = 0.5 0.6 + 0.5 0.4 = 0.5.
    one = torch.tensor([True] * 25 + [False] * 25)
    other = torch.tensor([True] * 20 + [False] * 5 + [True] * 10 + [False] * 15)
    assert cohens_kappa(one, other) == pytest.approx(0.4)
    assert cohens_kappa(one, one) == 1
    assert cohens_kappa(one, ~one) == -1
    assert math.isnan(cohens_kappa(torch.ones(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool)))
