import re
from xml.etree import ElementTree

import pytest

from rlnsp.report.figures import MOST_POINTS, NUM_COLOURS, Curve, chart, moving_average, thinned

LINE = Curve(
    number=0, x=[1, 2, 3], y=[0.1, 0.3, 0.2], low=[0, 0.2, 0.1], high=[0.2, 0.4, 0.3], behind=[0.1, 0.4, 0.1]
)
POINTS = Curve(number=7, x=[1, 3], y=[0.2, 0.4], low=[0.1, 0.3], high=[0.3, 0.5], as_bars=True)


def test_a_chart_takes_every_colour_from_the_page():
    drawn = chart([LINE, POINTS], "reward")
    assert {"var(--ink)", "var(--line)", "var(--series-0)", "var(--series-1)"} <= set(
        re.findall(r"var\(--[a-z0-9-]+\)", drawn)
    )
    assert re.findall(r"#[0-9a-f]{6}\b", drawn) == []


def test_a_chart_is_one_element_that_says_what_it_shows():
    drawn = chart([LINE], 'reward: "0.1" <to> 0.2')
    root = ElementTree.fromstring(drawn)
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'reward: "0.1" <to> 0.2'
    assert root.get("viewBox")
    assert root.get("width") is None


def test_two_charts_of_one_page_share_no_name():
    one, other = (set(re.findall(r'id="([^"]*)"', chart([POINTS], label))) for label in ("a", "b"))
    assert one
    assert not one & other
    drawn = chart([POINTS], "a")
    used = re.findall(r'(?:url\(#|href="#)([^)"]*)', drawn)
    assert used
    assert set(used) <= one


def test_the_same_curves_are_drawn_the_same():
    assert chart([LINE], "a") == chart([LINE], "a")


def test_runs_beyond_the_colours_differ_by_their_dashes():
    dashes = [
        "stroke-dasharray" in chart([Curve(number=number, x=[1, 2], y=[1, 2])], "a")
        for number in (0, NUM_COLOURS)
    ]
    assert dashes == [False, True]


def test_a_long_curve_is_drawn_by_means_of_equal_stretches():
    assert thinned([1.0, 2.0, 3.0]) == [1.0, 2.0, 3.0]
    assert thinned([2.0]) == [2.0]
    values = [float(i) for i in range(2 * MOST_POINTS)]
    assert thinned(values) == [i + 0.5 for i in range(0, 2 * MOST_POINTS, 2)]


def test_a_moving_average_and_its_error_are_the_ones_worked_out_by_hand():
    # Means of (0, 3), (0, 3, 6), (3, 6); errors of two: sqrt(2) / 2, of three: sqrt(3) / 3.
    means, errors = moving_average([0.0, 3.0, 6.0], [1.0, 1.0, 1.0], 3)
    assert means == pytest.approx([1.5, 3.0, 4.5])
    assert errors == pytest.approx([2**-0.5, 3**-0.5, 2**-0.5])
    assert moving_average([1.0, 5.0], [0.5, 2.0], 1) == ([1.0, 5.0], [0.5, 2.0])
