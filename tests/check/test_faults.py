"""Each planted fault is named by exactly one check, and its remedy stands beside it."""

from contextlib import nullcontext

import pytest
import torch

from rlnsp.check.examination import examine
from rlnsp.check.subject import Subject
from rlnsp.settings import RewardSlot, RunConfig, SamplerConfig, Slot, TrainerConfig, WindowConfig
from rlnsp.testing import ToyPolicy
from tests.check import faults

HERE = "tests.check.faults"


def config(reward="brightness", algorithm="grpo", settings=None, sampler=None, **trainer):
    use = algorithm if algorithm[0].islower() else f"{HERE}:{algorithm}"
    return RunConfig(
        policy=Slot(use="rlnsp.testing:ToyPolicy"),
        rewards={"given": RewardSlot(use=f"{HERE}:{reward}")},
        algorithm=Slot(
            use=use, config={"clip": 1e-4, "kl_coefficient": 0.1} if settings is None else settings
        ),
        sampler=SamplerConfig(**{"num_steps": 4, "window": WindowConfig(size=2), **(sampler or {})}),
        trainer=TrainerConfig(
            **{"scenes_per_iteration": 4, "group_size": 4, "micro_batch_size": 12, **trainer}
        ),
    )


def report_of(policy=ToyPolicy, **settings):
    made = policy(ToyPolicy.Config())
    held = made.held if isinstance(made, faults.HoldsAutocast) else nullcontext()
    with held:
        return examine(Subject.of(config(**settings), made))


FAULTS = [
    ({"policy": faults.TooFewSigmas}, "schedule", "(4,) for 4 steps, not (5,)"),
    ({"policy": faults.NoZeroAtTheEnd}, "schedule", "does not end at 0"),
    ({"policy": faults.Dropping}, "sampler", "away from Euler's"),
    ({"policy": faults.DroppingInTraining}, "first ratio", "it must be exactly 0"),
    ({"policy": faults.BatchDependent}, "drift", "the clip is 0.0001"),
    ({"policy": faults.NothingToTrain}, "weights", "targets match no layer"),
    ({"policy": faults.TrainedNaN}, "weights", "inner.weight has weights that are NaN"),
    ({"policy": faults.FrozenNaN}, "velocity", "NaN or infinity at sigma 1"),
    ({"policy": faults.FrozenEncoderNaN}, "velocity", "encode gives NaN"),
    ({"policy": faults.Deaf}, "gradient", "does not reach 4 of 4 trained tensors"),
    ({"policy": faults.ListsTooMuch}, "gradient", "does not reach 1 of 5 trained tensors: unused"),
    ({"policy": faults.ForgotToFreeze}, "gradient", "one of shape (1, 1, 3)"),
    ({"policy": faults.InfiniteGradient}, "step", "the gradient is not finite"),
    ({"policy": faults.Breaking}, "gradient", "stopped by RuntimeError: out of paper"),
    ({"policy": faults.HoldsAutocast}, "ratio moves", "after one step: 0 in fp32"),
    ({"policy": faults.Trained, "learning_rate": 1e-30, "weight_decay": 0.0}, "step", "changes no weight"),
    ({"algorithm": "StoresInBf16"}, "stored latents", "is in bfloat16"),
    ({"algorithm": "RoundsToBf16"}, "stored latents", "the x_next of recorded steps is in bfloat16"),
    ({"algorithm": "InertDivergence"}, "reference", "its term has no gradient"),
    ({"algorithm": "DivergenceWithoutCoefficient"}, "reference", "half of it pulls 1 times as much"),
    ({"settings": {"clip_nats": 1000.0}}, "clip", "clip_nats is 1000.0 for a latent of 96"),
    ({"reward": "constant"}, "reward given", "generated, black, random and true clips all have one score"),
    ({"reward": "of_the_words"}, "reward given", "all have one score"),
    ({"reward": "the_first_wins"}, "reward given", "in another order the same clips score otherwise"),
    ({"reward": "running_mean"}, "reward given", "in another order the same clips score otherwise"),
    ({"reward": "unscored"}, "reward given", "could not be scored"),
    ({"reward": "one_short"}, "reward given", "returned 15 values for 16 samples"),
    ({"reward": "failing"}, "reward given", "the judge's server is away"),
]


@pytest.mark.parametrize(
    ("fault", "check", "says"), FAULTS, ids=[f"{check}: {says}" for _, check, says in FAULTS]
)
def test_a_planted_fault_is_named_by_one_check_alone(fault, check, says):
    report = report_of(**fault)
    assert report.failed == [check]
    assert says in report.findings[check].says
    assert report.findings[check].remedy


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


def test_a_fault_that_the_run_does_not_use_is_a_note():
    report = report_of(algorithm="InertDivergence", settings={"clip": 1e-3, "kl_coefficient": 0.0})
    assert report.failed == []
    assert report.findings["reference"].verdict == "note"


def test_an_autocast_round_the_whole_update_is_named():
    """Its cache outlives the step: the mistake as published, round the run's own bf16."""
    with torch.autocast("cpu", torch.bfloat16):
        report = report_of(precision="bf16", settings={"clip": 1e-2})
    assert report.failed == ["ratio moves"]


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
