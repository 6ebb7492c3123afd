"""Runs of a toy policy to check, sound or with one fault."""

from contextlib import nullcontext

from rlnsp.check.examination import examine
from rlnsp.check.report import Report
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


def subject_of(policy=ToyPolicy, **settings):
    return Subject.of(config(**settings), policy(ToyPolicy.Config()))


def report_of(policy=ToyPolicy, **settings) -> Report:
    made = policy(ToyPolicy.Config())
    held = made.held if isinstance(made, faults.HoldsAutocast) else nullcontext()
    with held:
        return examine(Subject.of(config(**settings), made))


def assert_named(fault, check, says):
    """One check alone is red, says what is wrong, and has a remedy beside it."""
    report = report_of(**fault)
    assert report.failed == [check]
    assert says in report.findings[check].says
    assert report.findings[check].remedy
