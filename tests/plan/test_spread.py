"""What is held and gathered of a model of 10 blocks of 8 bytes with 4 outside."""

import pytest

from rlnsp.commands import plan
from rlnsp.plan.spread import SPREADS, Spreadable

MODEL = Spreadable(bytes=84.0, block=8.0, outside=4.0)


def test_spread_weights_and_gradients_are_held_in_equal_parts():
    assert MODEL.own("none", 4) == 84
    assert MODEL.own("gradients", 4) == MODEL.own("weights", 4) == 84 / 4


@pytest.mark.parametrize(
    ("spread", "trained", "gathered"),
    [
        ("none", True, 0),
        ("gradients", False, 84 + 2 * 8),  # all that was gathered stays, and a block's buffer with the next
        ("gradients", True, 84 + 3 * 8),
        ("weights", False, 4 + 3 * 8),
        ("weights", True, 4 + 6 * 8),
    ],
)
def test_what_is_gathered_is_a_few_blocks_or_all(spread, trained, gathered):
    assert MODEL.gathered(spread, trained=trained) == gathered


def test_where_most_is_outside_of_blocks_its_own_buffer_is_the_most():
    assert Spreadable(bytes=40.0, block=2.0, outside=20.0).gathered("weights", trained=False) == 20 + 20 + 4


def test_the_command_has_the_ways_that_there_are():
    import argparse

    parser = argparse.ArgumentParser()
    plan.add_arguments(parser)
    (choices,) = (action.choices for action in parser._actions if action.dest == "spread")
    assert choices == SPREADS
