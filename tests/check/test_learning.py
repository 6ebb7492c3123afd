"""Gradients, steps and the pull to the reference."""

import pytest

from tests.check import faults
from tests.check.runs import assert_named, report_of


@pytest.mark.parametrize(
    ("fault", "check", "says"),
    [
        ({"policy": faults.Deaf}, "gradient", "does not reach 4 of 4 trained tensors"),
        ({"policy": faults.ListsTooMuch}, "gradient", "does not reach 1 of 5 trained tensors: unused"),
        ({"policy": faults.ForgotToFreeze}, "gradient", "one of shape (1, 1, 3)"),
        ({"policy": faults.InfiniteGradient}, "step", "the gradient is not finite"),
        ({"policy": faults.Breaking}, "gradient", "stopped by RuntimeError: out of paper"),
        (
            {"policy": faults.Trained, "learning_rate": 1e-30, "weight_decay": 0.0},
            "step",
            "changes no weight",
        ),
        ({"algorithm": "InertDivergence"}, "reference", "its term has no gradient"),
        ({"algorithm": "DivergenceWithoutCoefficient"}, "reference", "half of it pulls 1 times as much"),
    ],
)
def test_a_planted_fault_is_named_by_one_check_alone(fault, check, says):
    assert_named(fault, check, says)


def test_a_fault_that_the_run_does_not_use_is_a_note():
    report = report_of(algorithm="InertDivergence", settings={"clip": 1e-3, "kl_coefficient": 0.0})
    assert report.failed == []
    assert report.findings["reference"].verdict == "note"


def test_a_clip_that_stops_all_that_the_step_has_moved_hides_no_gradient():
    """The first layer has one from the second step on, when every ratio is outside a clip this narrow."""
    report = report_of(settings={"clip": 1e-7}, micro_batch_size=1, learning_rate=1e-2)
    assert "reaches all 4 trained tensors" in report.findings["gradient"].says
    assert report.failed == []
