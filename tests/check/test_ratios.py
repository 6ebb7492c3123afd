"""Ratios: 1 where nothing changed, near 1 against the rollout, moved after a step."""

import pytest
import torch

from tests.check import faults
from tests.check.runs import assert_named, report_of


@pytest.mark.parametrize(
    ("fault", "check", "says"),
    [
        ({"policy": faults.DroppingInTraining}, "first ratio", "it must be exactly 0"),
        ({"policy": faults.BatchDependent}, "drift", "the clip is 0.0001"),
        ({"policy": faults.HoldsAutocast}, "ratio moves", "after one step: 0 in fp32"),
        ({"algorithm": "StoresInBf16"}, "stored latents", "is in bfloat16"),
        ({"algorithm": "RoundsToBf16"}, "stored latents", "the x_next of recorded steps is in bfloat16"),
        ({"settings": {"clip_nats": 1000.0}}, "clip", "clip_nats is 1000.0 for a latent of 96"),
    ],
)
def test_a_planted_fault_is_named_by_one_check_alone(fault, check, says):
    assert_named(fault, check, says)


def test_an_autocast_round_the_whole_update_is_named():
    """Its cache outlives the step: the mistake as published, round the run's own bf16."""
    with torch.autocast("cpu", torch.bfloat16):
        report = report_of(precision="bf16", settings={"clip": 1e-2})
    assert report.failed == ["ratio moves"]
