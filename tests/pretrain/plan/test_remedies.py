"""What makes a stage fit, by plans that are counted on a small model."""

from dataclasses import replace

import pytest

from pretrain.diffusion import DiffusionConfig
from pretrain.loop import LoopConfig
from pretrain.plan import outline
from pretrain.plan.counting import Counts
from pretrain.plan.estimate import StageRun, estimate
from pretrain.plan.remedies import remedies
from pretrain.settings import PretrainConfig
from pretrain.work import DataConfig
from rlnsp import config
from rlnsp.plan.estimate import RESERVE, Rates
from rlnsp.plan.stages import Devices

SMALL = ["transformer.layers=3", "comprehension.layers=2", "transformer.num_queries=4"]
STREAM = DataConfig(clips="stream", manifest="somewhere")


@pytest.fixture(scope="module")
def counts():
    return Counts(outline.of_pretrain(config.load_typed(PretrainConfig, "world", SMALL, folder="pretrain")))


def run_of(devices=1, optimizer="adamw", **own):
    on = Devices(count=devices, memory=8e10, rates=Rates(), spread="none")
    stage = DiffusionConfig(loop=LoopConfig(batch_size=8), **own)
    return StageRun(name="sft", config=stage, data=STREAM, optimizer=optimizer, devices=on)


def found(run, counts, fits_at):
    """Where as many bytes as ``fits_at`` are just enough."""
    tight = replace(run, devices=replace(run.devices, memory=fits_at / (1 - RESERVE) * 1.0001))
    return remedies(tight, lambda one: estimate(one, counts), "sft")


def peak(run, counts, **own):
    return estimate(replace(run, config=replace(run.config, **own)), counts).peak


def test_none_is_named_where_the_stage_fits(counts):
    run = run_of()
    assert found(run, counts, peak(run, counts)) == []


def test_the_first_alternative_that_fits_is_taken(counts):
    run = run_of()
    bf16 = peak(run, counts, precision="bf16")
    both = peak(run, counts, precision="bf16", gradient_checkpointing=True)
    assert both < bf16 < peak(run, counts)
    (one,) = found(run, counts, bf16)
    assert (one.override, one.peak, one.fits) == ("sft.precision=bf16", bf16, True)
    (one,) = found(run, counts, both)
    assert one.override == "sft.precision=bf16 sft.gradient_checkpointing=true"
    assert one.peak == both


def test_several_devices_spread_before_they_take_smaller_parts(counts):
    run = run_of(2, precision="bf16", gradient_checkpointing=True)
    spread = {
        how: estimate(replace(run, devices=replace(run.devices, spread=how)), counts).peak
        for how in ("none", "gradients", "weights")
    }
    names = [one.override for one in found(run, counts, spread["weights"])]
    assert names == ["--spread weights"] or spread["gradients"] <= spread["weights"]
    least = [one.override for one in found(run, counts, 1.0)]
    assert least[0].startswith("--spread")
    assert least[1:] == ["sft.micro_batch_size=1"] or "--precompute" in least
    assert not any("adamw_8bit" in one for one in least)  # which cannot be spread


def test_one_device_takes_smaller_parts_and_then_another_optimiser(counts):
    run = run_of(optimizer="prodigy", precision="bf16", gradient_checkpointing=True)
    every = found(run, counts, 1.0)
    names = [one.override for one in every]
    assert names[0] == "sft.micro_batch_size=1"
    assert names[-1].startswith("sft.loop.optimizer=adamw_8bit (and sft.loop.learning_rate")
    assert not any(name.startswith("--spread") for name in names)
    peaks = [one.peak for one in every]
    assert peaks == sorted(peaks, reverse=True)
    assert not every[-1].fits
    trained = counts.numbers(run.config)
    numbers = trained.trained + trained.dit.bytes / 4
    assert peaks[-2] - peaks[-1] == pytest.approx((16 - 2 * (1 + 4 / 256)) * numbers)


def test_where_encoding_is_the_most_it_is_done_before(counts):
    run = run_of(precision="bf16", gradient_checkpointing=True, micro_batch_size=1)
    plan = estimate(run, counts)
    before = estimate(replace(run, data=replace(STREAM, clips="precomputed")), counts)
    assert plan.worst_phase == "encoding"
    assert before.peak < plan.peak
    (one,) = found(run, counts, before.peak)
    assert one.override == "--precompute"
