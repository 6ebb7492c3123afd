from collections import Counter
from typing import Any

import pytest

from rlnsp.randomness import Randomness
from rlnsp.settings import ConfigError, SamplerConfig, WindowConfig
from rlnsp.window import trained_steps


def steps(iteration=0, seed=0, num_steps=10, rule: Any = "cps", **window):
    sampler = SamplerConfig(num_steps=num_steps, rule=rule, window=WindowConfig(**window))
    return trained_steps(sampler, Randomness(seed=seed, iteration=iteration))


def test_a_fixed_window_stays_where_it_is():
    assert [steps(i, start=2, size=3) for i in (0, 1, 500)] == [[2, 3, 4]] * 3


def test_all_steps_but_the_last_can_be_trained_and_of_the_ode_the_last_too():
    assert steps(size=9) == list(range(9))
    assert steps(size=10, rule="ode") == list(range(10))


def test_random_steps_are_drawn_without_repeats_from_all_that_may_be_trained():
    drawn = [steps(i, kind="random", start=1, size=4) for i in range(400)]
    assert all(one == sorted(set(one)) and len(one) == 4 for one in drawn)
    # Steps 1 to 8, each half of the time.
    count = Counter(step for one in drawn for step in one)
    assert sorted(count) == list(range(1, 9))
    assert all(abs(n - 200) < 5 * (400 * 0.25) ** 0.5 for n in count.values())


def test_a_branch_is_in_a_row_and_begins_anywhere_before_the_end():
    drawn = [steps(i, kind="branch", size=2, end=6) for i in range(400)]
    count = Counter(map(tuple, drawn))
    assert sorted(count) == [(k, k + 1) for k in range(5)]
    assert all(abs(n - 80) < 5 * (400 * 0.16) ** 0.5 for n in count.values())


@pytest.mark.parametrize("kind", ["random", "branch"])
def test_a_draw_is_of_the_seed_and_the_iteration(kind):
    def drawn(**where):
        return [steps(i, kind=kind, size=2, num_steps=40, **where) for i in range(8)]

    assert drawn() == drawn()
    assert drawn() != drawn(seed=1)
    assert len({tuple(one) for one in drawn()}) > 1


def test_a_sliding_window_moves_to_the_end_and_rolls_back():
    # Of the steps 1 to 8, four at a time, by three: from 1, 4, and 5, where the last of them is 8.
    starts = [steps(i, kind="sliding", start=1, size=4, stride=3, shift_every=2)[0] for i in range(8)]
    assert starts == [1, 1, 4, 4, 5, 5, 1, 1]
    assert steps(2, kind="sliding", start=1, size=4, stride=3, shift_every=2) == [4, 5, 6, 7]
    assert [steps(i, kind="sliding", size=2, end=4, shift_every=1)[0] for i in range(4)] == [0, 1, 2, 0]


def test_a_sliding_window_that_fills_its_range_stays():
    assert [steps(i, kind="sliding", size=9, shift_every=1) for i in range(3)] == [list(range(9))] * 3


@pytest.mark.parametrize(
    ("window", "says"),
    [
        ({"size": 10}, "covers steps 0 to 9, but of 10 steps"),
        ({"size": 3, "end": 2}, "the last that cps may train is 1"),
        ({"end": 10}, r"window.end is 10, but of 10 steps \(0 to 9\) the last that cps may train is 8"),
        ({"stride": 0}, "window.stride must be at least 1; got 0"),
        ({"shift_every": 0}, "window.shift_every must be at least 1; got 0"),
    ],
)
def test_a_window_that_cannot_be_is_refused(window, says):
    with pytest.raises(ConfigError, match=says):
        steps(**window)
