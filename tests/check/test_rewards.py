"""Rewards: each fault is named, and what only looks like one is not."""

import pytest

from tests.check.runs import assert_named, report_of


@pytest.mark.parametrize(
    ("fault", "check", "says"),
    [
        (
            {"reward": "constant"},
            "reward given",
            "generated, black, random and true clips all have one score",
        ),
        ({"reward": "of_the_words"}, "reward given", "all have one score"),
        ({"reward": "the_first_wins"}, "reward given", "in another order the same clips score otherwise"),
        ({"reward": "running_mean"}, "reward given", "in another order the same clips score otherwise"),
        ({"reward": "unscored"}, "reward given", "could not be scored"),
        ({"reward": "one_short"}, "reward given", "returned 15 values for 16 samples"),
        ({"reward": "failing"}, "reward given", "the judge's server is away"),
    ],
)
def test_a_planted_fault_is_named_by_one_check_alone(fault, check, says):
    assert_named(fault, check, says)


@pytest.mark.parametrize(
    ("reward", "verdict", "says"),
    [
        ("compared_in_its_group", "pass", "the same in another order"),
        ("drawn", "note", "asked twice it differs"),
        ("black_or_not", "note", "all alike"),
    ],
)
def test_a_reward_that_compares_draws_or_ties_is_no_fault(reward, verdict, says):
    report = report_of(reward=reward)
    assert report.failed == []
    assert report.findings["reward given"].verdict == verdict
    assert says in report.findings["reward given"].says
