"""Weights and sampler; what is sound passes; the policy stays as it was."""

import pytest
import torch

from rlnsp.check.examination import examine
from rlnsp.check.subject import Subject
from rlnsp.testing import ToyPolicy
from tests.check import faults
from tests.check.runs import assert_named, config, report_of


@pytest.mark.parametrize(
    ("fault", "check", "says"),
    [
        ({"policy": faults.TooFewSigmas}, "schedule", "(4,) for 4 steps, not (5,)"),
        ({"policy": faults.NoZeroAtTheEnd}, "schedule", "does not end at 0"),
        ({"policy": faults.Dropping}, "sampler", "away from Euler's"),
        ({"policy": faults.NothingToTrain}, "weights", "targets match no layer"),
        ({"policy": faults.TrainedNaN}, "weights", "inner.weight has weights that are NaN"),
        ({"policy": faults.FrozenNaN}, "velocity", "NaN or infinity at sigma 1"),
        ({"policy": faults.FrozenEncoderNaN}, "velocity", "encode gives NaN"),
    ],
)
def test_a_planted_fault_is_named_by_one_check_alone(fault, check, says):
    assert_named(fault, check, says)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("algorithm", ["ddpo", "grpo", "grpo_guard", "flow_dppo", "nft", "awm"])
def test_nothing_is_wrong_with_what_is_sound(algorithm, precision):
    report = report_of(
        algorithm=algorithm,
        settings={"clip": 1e-2} if algorithm in {"grpo", "ddpo"} else {},
        precision=precision,
    )
    assert report.failed == []
    assert {name for name, one in report.findings.items() if one.verdict == "skipped"} == set()


def test_the_trained_encoder_is_reached_too():
    subject = Subject.of(config(), ToyPolicy(ToyPolicy.Config(train_encoder=True)))
    report = examine(subject)
    assert report.failed == []
    assert report.findings["gradient"].figures["tensors"] == 5


@pytest.mark.parametrize(
    "fault", [ToyPolicy, faults.InfiniteGradient, faults.Breaking, faults.BatchDependent]
)
def test_the_policy_is_afterwards_as_it_was(fault):
    policy = fault(ToyPolicy.Config())
    before = {name: value.detach().clone() for name, value in policy.named_trainable()}
    report = examine(Subject.of(config(), policy))
    assert report.findings["restored"].verdict == "pass"
    for name, value in policy.named_trainable():
        assert torch.equal(value, before[name])
        assert value.grad is None
