"""What makes a stage fit, where bytes are made up: 64 of weights that may be spread, and 4 a clip."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pretrain.diffusion import DiffusionConfig
from pretrain.loop import LoopConfig
from pretrain.plan.estimate import StageRun
from pretrain.plan.remedies import remedies
from pretrain.work import DataConfig
from rlnsp.plan.estimate import RESERVE, Rates
from rlnsp.plan.spread import Spread
from rlnsp.plan.stages import Devices, StagePlan

HELD = {"none": 64, "gradients": 48, "weights": 32}
OPTIMISER = {"adamw": 16, "adamw_8bit": 4, "prodigy": 32}


def plan_of(run):
    config = run.config
    at_once = min(config.micro_batch_size or run.clips, run.clips)
    a_clip = 4 / (2 if config.precision == "bf16" else 1) / (4 if config.gradient_checkpointing else 1)
    held = HELD[run.devices.spread] + OPTIMISER[run.optimizer]
    phases = {"training": {"held": held, "activations": at_once * a_clip}}
    if run.data.clips == "stream":
        phases["encoding"] = {"held": held, "a clip": 6.0}
    return StagePlan(
        name=run.name, devices=run.devices, phases=phases, flops={}, seconds={}, clips=run.clips, steps=1
    )


def named(
    fits_at: float,
    devices: int = 1,
    optimizer: str = "adamw",
    spread: Spread = "none",
    train: Sequence[str] = ("transformer",),
    **own: Any,
) -> dict[str, float]:
    """The remedies where so many bytes are just enough, and their peaks."""
    on = Devices(count=devices, memory=fits_at / (1 - RESERVE) * 1.0001, rates=Rates(), spread=spread)
    stage = DiffusionConfig(train=list(train), loop=LoopConfig(batch_size=16 * devices), **own)
    data = DataConfig(clips="stream", manifest="somewhere")
    run = StageRun(name="sft", config=stage, data=data, optimizer=optimizer, devices=on)
    found = remedies(run, plan_of, "sft")
    assert [one.fits for one in found[:-1]] == [False] * len(found[:-1])
    return {one.override: one.peak for one in found}


BF16, BOTH = "sft.precision=bf16", "sft.precision=bf16 sft.gradient_checkpointing=true"
ALL_DONE = {"precision": "bf16", "gradient_checkpointing": True}


def test_none_is_named_where_the_stage_fits():
    assert named(64 + 16 + 64) == {}


@pytest.mark.parametrize(
    ("fits_at", "expected"),
    [
        (64 + 16 + 32, {BF16: 112}),
        (64 + 16 + 8, {BOTH: 88}),  # the first that fits of what stands for one another
        (64 + 16 + 6, {BOTH: 88, "sft.micro_batch_size=4": 86}),
        (64 + 16 + 2, {BOTH: 88, "sft.micro_batch_size=4": 86, "--precompute": 82}),
        (
            64 + 4 + 2,
            {BOTH: 88, "sft.micro_batch_size=4": 86, "--precompute": 82, "sft.loop.optimizer=adamw_8bit": 70},
        ),
    ],
)
def test_what_changes_memory_and_speed_alone_comes_before_another_optimiser(fits_at, expected):
    assert named(fits_at) == expected


def test_several_devices_spread_before_they_take_smaller_parts():
    assert named(48 + 16 + 8, 2, **ALL_DONE) == {"--spread gradients": 72}
    assert named(32 + 16 + 8, 2, **ALL_DONE) == {"--spread weights": 56}
    assert named(32 + 16 + 6, 2, **ALL_DONE)["sft.micro_batch_size=4"] == 54
    assert "--spread gradients" not in named(1, 2, spread="gradients", **ALL_DONE)


def test_what_is_spread_is_not_told_to_take_an_optimiser_that_cannot_be_and_the_other_way_round():
    assert not any("adamw_8bit" in one for one in named(1, 2, **ALL_DONE))
    assert any("adamw_8bit" in one for one in named(1, 2, train=("connector",), **ALL_DONE))
    assert not any("--spread" in one for one in named(1, 2, optimizer="adamw_8bit", **ALL_DONE))
    assert not any("--spread" in one for one in named(1, 1, **ALL_DONE))


def test_in_prodigys_place_a_learning_rate_is_wanted_too():
    last = [*named(1, optimizer="prodigy", **ALL_DONE)][-1]
    assert last == "sft.loop.optimizer=adamw_8bit (and sft.loop.learning_rate, which Prodigy finds itself)"


def test_what_is_tried_is_what_is_written():
    """A remedy's setting, put into the config, has the peak that is told."""
    stage = DiffusionConfig(loop=LoopConfig(batch_size=16), micro_batch_size=4, **ALL_DONE)
    on = Devices(count=1, memory=1.0, rates=Rates(), spread="none")
    run = StageRun(name="sft", config=stage, data=DataConfig(), optimizer="adamw", devices=on)
    assert named(64 + 16 + 2, **ALL_DONE)["--precompute"] == plan_of(replace(run)).peak
