"""Policies beside diffusers' own pipelines, as ``rlnsp check`` sees the two."""

from dataclasses import replace

import pytest
import torch

from policies.ltx_video import LTXVideo
from policies.settings import Lora
from policies.unified import Unified
from policies.wan import Wan
from rlnsp import cli
from rlnsp.check.examination import examine
from rlnsp.check.sampling import stock
from rlnsp.check.subject import Subject
from rlnsp.settings import RewardSlot, RunConfig, SamplerConfig, Slot, TrainerConfig, WindowConfig
from tests.policies.pipelines import SIZE

RUN = RunConfig(
    policy=Slot(use="unified"),
    rewards={"brightness": RewardSlot(use="tests.check.faults:brightness")},
    algorithm=Slot(use="grpo", config={"clip": 1e-2}),
    sampler=SamplerConfig(num_steps=4, window=WindowConfig(size=2)),
    trainer=TrainerConfig(scenes_per_iteration=2, group_size=2, micro_batch_size=4),
)


class OneStepAhead(Unified):
    """Its schedule is off by one: it leaves out the second sigma of one that is a step longer."""

    def sigmas(self, num_steps):
        longer = super().sigmas(num_steps + 1)
        return torch.cat([longer[:1], longer[2:]])


class WanOneStepAhead(Wan):
    """The same."""

    def sigmas(self, num_steps):
        longer = super().sigmas(num_steps + 1)
        return torch.cat([longer[:1], longer[2:]])


class WithoutShift(Unified):
    """Evenly spaced, as if LTX did not shift."""

    def sigmas(self, num_steps):
        return torch.linspace(1, 0, num_steps + 1)


class TimestepOfTheNext(Unified):
    """The schedule is right, and the network is told the sigma after."""

    def velocity(self, x, sigma, condition, guidance_scale=1.0):
        sigmas = self.sigmas(RUN.sampler.num_steps).to(sigma)
        following = torch.stack([sigmas[sigmas < value].max() for value in sigma])
        return super().velocity(x, following, condition, guidance_scale)


class ForgetsGuidance(Unified):
    def velocity(self, x, sigma, condition, guidance_scale=1.0):
        return super().velocity(x, sigma, condition, 1.0)


def opened(kind, policy_folder, **settings):
    return kind(Unified.Config(folder=str(policy_folder), lora=Lora(rank=2, alpha=4.0), **settings))


def of_pipeline(kind, folder, guidance_scale, **settings):
    """A run with that policy, its adapter one that does something."""
    size = {**SIZE, "max_length": 128}
    policy = kind(kind.Config(folder=str(folder), lora=Lora(rank=2, alpha=4.0), **size, **settings))
    generator = torch.Generator().manual_seed(7)
    for _, value in policy.named_trainable():
        value.data.add_(0.1 * torch.randn(value.shape, generator=generator))
    return Subject.of(replace(RUN, sampler=replace(RUN.sampler, guidance_scale=guidance_scale)), policy)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_latents_are_those_of_ltx_pipeline(policy_folder, dtype, guidance_scale):
    run = replace(RUN, sampler=replace(RUN.sampler, guidance_scale=guidance_scale))
    policy = opened(Unified, policy_folder, dtype=dtype)
    generator = torch.Generator().manual_seed(7)
    for _, value in policy.named_trainable():
        value.data.add_(0.1 * torch.randn(value.shape, generator=generator))
    finding = stock(Subject.of(run, policy))
    assert finding.verdict == "pass"
    assert float(finding.figures["relative_difference"]) < 1e-5


def test_the_pipeline_samples_with_the_adapter(trained_policy):
    subject = Subject.of(RUN, trained_policy)
    with trained_policy.reference():
        theirs = stock(subject)
    assert theirs.verdict == "pass"
    x, condition = trained_policy.noise(1, torch.Generator().manual_seed(0)), None
    with torch.no_grad():
        condition = trained_policy.encode(subject.scenes[:1])
    adapted = trained_policy.stock_latents(x, condition, 4)
    with trained_policy.reference():
        plain = trained_policy.stock_latents(x, condition, 4)
    assert (adapted - plain).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize(
    ("kind", "name", "own"),
    [
        (LTXVideo, "ltx_video", {}),
        (Wan, "wan", {"spacing": "wan"}),
        (Wan, "wan", {"spacing": "euler"}),
        (Wan, "wan", {"flow_shift": 2.0}),
    ],
)
def test_latents_are_those_of_the_text_to_video_pipelines(
    pipeline_folders, kind, name, own, guidance_scale, dtype
):
    finding = stock(of_pipeline(kind, pipeline_folders[name], guidance_scale, dtype=dtype, **own))
    assert finding.verdict == "pass"
    assert finding.figures["largest_difference"] == 0.0


def test_a_schedule_that_is_not_wans_own_is_named(pipeline_folders):
    finding = stock(of_pipeline(WanOneStepAhead, pipeline_folders["wan"], 1.0))
    assert finding.verdict == "fail"


@pytest.mark.parametrize("fault", [OneStepAhead, WithoutShift, TimestepOfTheNext])
def test_a_schedule_that_is_not_the_models_own_is_named(policy_folder, fault):
    finding = stock(Subject.of(RUN, opened(fault, policy_folder)))
    assert finding.verdict == "fail"
    assert float(finding.figures["relative_difference"]) > 5e-3


def test_guidance_that_is_forgotten_is_named(policy_folder):
    run = replace(RUN, sampler=replace(RUN.sampler, guidance_scale=30.0))
    assert stock(Subject.of(run, opened(ForgetsGuidance, policy_folder))).verdict == "fail"


# torch says that its RMSNorm is slower under autocast
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize(("kind", "failed"), [(Unified, []), (OneStepAhead, ["stock"])])
def test_the_whole_check_on_the_unified_policy(policy_folder, kind, failed):
    report = examine(Subject.of(RUN, opened(kind, policy_folder)))
    assert report.failed == failed
    assert report.findings["weights"].figures["lora_modules"] == 20


def test_a_lora_target_that_matches_nothing_is_named(policy_folder, capsys):
    settings = [f"policy.config.folder={policy_folder}", "policy.config.lora.targets=[to_q,to_ou.0]"]
    assert cli.main(["check", *settings]) == 2
    assert (
        "'to_ou.0' matches no linear layer of the transformer. Did you mean 'to_out.0'?"
        in capsys.readouterr().err
    )
