import math

import numpy as np
import pytest
from scipy import stats

from rlnsp.sweep.importance import variance_shares
from rlnsp.sweep.statistics import holm, over_seeds, paired_difference


def test_the_interval_over_seeds_is_students():
    found = over_seeds([1.0, 2.0, 3.0])
    # s = 1, n = 3: the half width is t(0.975, 2) / sqrt(3), and that t is 4.302653 in any table.
    assert found.mean == 2.0
    assert found.high is not None
    assert found.low is not None
    assert found.high - 2.0 == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)
    assert 2.0 - found.low == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)


def test_one_seed_has_no_interval():
    assert (over_seeds([0.5]).low, over_seeds([0.5]).high) == (None, None)


def test_holm_by_its_own_example():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, and never below one that is smaller.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_same_shift_everywhere_is_certain():
    scores = np.random.default_rng(0).random((3, 50))
    found = paired_difference(scores, scores + 0.1)
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.p < 1e-9
    assert (found.seeds, found.scenes) == (3, 50)


def test_no_difference_at_all_has_p_one():
    scores = np.random.default_rng(0).random((3, 50))
    assert paired_difference(scores, scores).p == 1.0


def test_over_scenes_alone_the_interval_is_that_of_a_mean():
    """One seed: a bootstrap over scenes, whose variance is that of the scores over their number."""
    scores = np.random.default_rng(1).normal(0.02, 0.3, (1, 400))
    found = paired_difference(np.zeros_like(scores), scores)
    half = 1.96 * scores.std() / 20
    assert found.high - found.low == pytest.approx(2 * half, rel=0.05)
    assert found.mean == pytest.approx(scores.mean())


@pytest.mark.parametrize("num_seeds", [2, 3, 8])
def test_over_seeds_alone_the_interval_is_students(num_seeds):
    """Scenes alike: nothing is left but seeds, and the bootstrap must find their t interval, and its p."""
    effects = np.random.default_rng(2).normal(0.5, 1, (num_seeds, 1))
    found = paired_difference(np.zeros((num_seeds, 5)), np.repeat(effects, 5, 1), resamples=40_000)
    exact = over_seeds(effects.ravel().tolist())
    assert exact.high is not None
    error = effects.std(ddof=1) / math.sqrt(num_seeds)
    assert found.mean == pytest.approx(exact.mean)
    assert found.high - found.mean == pytest.approx(exact.high - exact.mean, rel=0.02)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(exact.mean) / error, num_seeds - 1), rel=0.05)


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
@pytest.mark.parametrize(("of_seeds", "of_scenes"), [(0.1, 0.0), (0.05, 0.3), (0.0, 0.3)])
def test_chance_is_called_a_difference_no_more_often_than_it_should(num_seeds, of_seeds, of_scenes):
    """No true difference, whatever varies: p < 0.05 in 5% of 150 sweeps or less; 15 is 2.8 errors more."""
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(150):
        noise = rng.normal(0, 0.02, (num_seeds, 40))
        scores = rng.normal(0, of_seeds, (num_seeds, 1)) + rng.normal(0, of_scenes, (1, 40)) + noise
        hits += paired_difference(np.zeros_like(scores), scores, resamples=300).p < 0.05
    assert hits <= 15


def test_a_true_difference_is_found():
    """0.1 among crossed effects whose standard error is 0.03: about 3.3 errors off."""
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(40):
        scores = 0.1 + rng.normal(0, 0.03, (3, 1)) + rng.normal(0, 0.3, (1, 150))
        hits += paired_difference(np.zeros_like(scores), scores, resamples=300).p < 0.05
    assert hits >= 25


def test_scenes_that_one_run_could_not_measure_are_left_out_of_all():
    first = np.zeros((2, 3))
    second = np.array([[1.0, np.nan, 2.0], [1.0, 5.0, 2.0]])
    found = paired_difference(first, second)
    assert (found.mean, found.scenes) == (1.5, 2)
    with pytest.raises(ValueError, match="no scene was measured in every run"):
        paired_difference(first, np.full((2, 3), np.nan))
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 2\)"):
        paired_difference(first, np.zeros((2, 2)))


def test_variance_shares_of_a_design_with_known_effects():
    """y = 2a + b + ab/2 on a, b in {-1, 1}, seeds +-0.5: squares 4, 1, 1/4 and 1/4, of 5.5."""
    factors = [{"a": a, "b": b} for a in (-1, 1) for b in (-1, 1)]
    ends = [[2 * f["a"] + f["b"] + f["a"] * f["b"] / 2 + e for e in (-0.5, 0.5)] for f in factors]
    shares = variance_shares(factors, ends)
    assert list(shares) == ["a", "b", "interactions", "seeds"]
    assert list(shares.values()) == pytest.approx([4 / 5.5, 1 / 5.5, 0.25 / 5.5, 0.25 / 5.5])


def test_variance_shares_are_those_of_an_analysis_of_variance():
    rng = np.random.default_rng(4)
    ends = rng.normal(size=(4, 3)).tolist()
    shares = variance_shares([{"arm": i} for i in range(4)], ends)
    # F = (between / 3) / (within / 8), by scipy.
    statistic = (shares["arm"] / 3) / (shares["seeds"] / 8)
    assert statistic == pytest.approx(stats.f_oneway(*ends).statistic)


def test_runs_that_all_end_alike_have_no_shares():
    assert variance_shares([{"a": 1}, {"a": 2}], [[0.5, 0.5], [0.5, 0.5]]) == {}
