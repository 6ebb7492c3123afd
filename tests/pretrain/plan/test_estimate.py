"""The plan of a stage: closed forms of what is held, and the stage's own code beside its count."""

from dataclasses import replace
from typing import Any

import pytest

from benchmarks import stage_plan_error
from policies.unified import Unified
from policies.unified.files import policy_folder
from policies.unified.weights import load_model
from pretrain.diffusion import DiffusionConfig, prepare
from pretrain.loop import HELD_OUT_ROWS, LoopConfig
from pretrain.plan import outline
from pretrain.plan.counting import Counts, _loss
from pretrain.plan.estimate import StageRun, estimate, largest_shape
from pretrain.settings import PretrainConfig
from pretrain.work import DataConfig
from rlnsp import config
from rlnsp.plan.estimate import RESERVE, Rates
from rlnsp.plan.spread import Spread
from rlnsp.plan.stages import Devices
from rlnsp.settings import ConfigError

SMALL = ["transformer.layers=4", "comprehension.layers=3", "transformer.num_queries=4"]
LOOP = LoopConfig(steps=100, batch_size=8, evaluate_every=100)
STREAM = DataConfig(clips="stream", manifest="somewhere")


@pytest.fixture(scope="module")
def counts():
    settings = config.load_typed(PretrainConfig, "world", SMALL, folder="pretrain")
    return Counts(outline.of_pretrain(settings))


def run_of(
    devices: int = 1,
    spread: Spread = "none",
    *,
    memory: float = 8e10,
    optimizer: str = "adamw",
    data: DataConfig = STREAM,
    pictures: bool = False,
    **own: Any,
) -> StageRun:
    """Eight clips on each device, unless a loop says otherwise."""
    own.setdefault("loop", replace(LOOP, batch_size=8 * devices))
    on = Devices(count=devices, memory=memory, rates=Rates(tflops=100.0, mfu=0.5), spread=spread)
    stage = DiffusionConfig(**own)
    return StageRun(name="joint", config=stage, data=data, optimizer=optimizer, devices=on, pictures=pictures)


def test_an_outline_has_the_sizes_of_the_model_that_a_stage_loads():
    model = load_model(Unified.Config(folder="world"))
    stage = DiffusionConfig(train=["queries", "transformer"], precision="bf16")
    prepare(model, stage)
    found = Counts(outline.of_folder(policy_folder("world"))).numbers(stage)

    def size(module):
        return sum(value.numel() * value.element_size() for value in module.parameters())

    queries = model.connector.queries.numel()
    assert found.frozen == {
        "Qwen": size(model.comprehension),  # in bf16
        "VAE": size(model.vae),
        "connector, frozen": size(model.connector) - 4 * queries,
    }
    assert found.trained == queries
    assert found.dit.bytes == size(model.transformer)
    blocks = model.transformer.get_submodule("transformer_blocks")
    assert found.dit.bytes - found.dit.outside == size(blocks) == len([*blocks.children()]) * found.dit.block


@pytest.mark.parametrize(
    ("optimizer", "bytes_each"), [("adamw", 8), ("prodigy", 16), ("adamw_8bit", 2.03125)]
)
def test_what_is_trained_has_its_gradient_its_average_and_the_optimisers_numbers(
    counts, optimizer, bytes_each
):
    found = estimate(run_of(optimizer=optimizer, loop=replace(LOOP, ema_decay=0.9)), counts).phases[
        "training"
    ]
    size = counts.numbers(run_of().config)
    trained = size.trained + size.dit.bytes / 4
    assert found["connector"] + found["DiT"] == found["gradients"] == found["average"] == 4 * trained
    assert found["optimiser"] == bytes_each * trained
    assert "average" not in estimate(run_of(), counts).phases["training"]


def test_two_that_hold_weights_together_have_half_of_all_that_is_the_dits(counts):
    one, two = (estimate(run_of(2, spread), counts).phases["training"] for spread in ("none", "weights"))
    size = counts.numbers(run_of().config)
    dit, beside = size.dit.bytes, 4 * size.trained
    assert two["DiT"] == one["DiT"] / 2 == dit / 2
    for part, numbers in (("gradients", 1), ("optimiser", 2)):
        assert one[part] == numbers * (beside + dit)
        assert two[part] == numbers * (beside + dit / 2)
    for part in ("Qwen", "VAE", "connector"):
        assert two[part] == one[part]
    assert two["DiT, gathered"] == size.dit.gathered("weights", trained=True)
    assert estimate(run_of(2, "weights"), counts).phases["loading"]["DiT"] == dit


def test_a_frozen_dit_is_spread_too_and_has_no_gradient(counts):
    run = run_of(2, "weights", train=["queries", "connector"])
    found, size = estimate(run, counts).phases["training"], counts.numbers(run.config)
    assert found["gradients"] == 4 * size.trained
    assert found["DiT"] == size.dit.bytes / 2
    assert found["DiT, gathered"] == size.dit.gathered("weights", trained=False)


def test_while_the_average_is_measured_the_weights_wait_aside(counts):
    found = estimate(run_of(loop=replace(LOOP, ema_decay=0.9)), counts).phases
    assert found["evaluating"]["weights, aside"] == found["training"]["gradients"]
    assert "gradients" not in found["evaluating"]


@pytest.mark.parametrize(
    ("clips", "train", "gone"),
    [
        ("stream", ["connector"], set()),
        ("memory", ["connector"], {"VAE"}),
        ("precomputed", ["queries", "connector"], {"VAE"}),
        ("precomputed", ["connector"], {"Qwen", "VAE"}),
    ],
)
def test_parts_that_wait_on_the_cpu_while_a_stage_trains_take_no_place_then(counts, clips, train, gone):
    plan = estimate(run_of(data=replace(STREAM, clips=clips), train=train), counts)
    before, *_ = plan.phases.values()
    assert {"Qwen", "VAE"} <= before.keys()
    for phase, parts in plan.phases.items():
        if phase in ("training", "stepping", "evaluating"):
            assert {"Qwen", "VAE"} - parts.keys() == gone, phase


def test_clips_that_are_precomputed_are_encoded_before_there_is_an_optimiser(counts):
    streamed, before = (
        estimate(run_of(data=replace(STREAM, clips=clips)), counts) for clips in ("stream", "precomputed")
    )
    assert streamed.phases["encoding"]["activations"] == before.phases["encoding"]["activations"] > 0
    assert "optimiser" in streamed.phases["encoding"]
    assert "optimiser" not in before.phases["encoding"]
    assert streamed.seconds["encoding"] > 0 == streamed.encoding_seconds
    assert "encoding" not in before.seconds
    assert before.encoding_seconds == pytest.approx(1000 * streamed.seconds["encoding"] / 8)
    called = {name: value for name, value in streamed.phases["training"].items() if name != "VAE"}
    assert called == before.phases["training"]


def test_what_frozen_queries_make_qwen_say_is_read_once_a_row_unless_clips_are_in_memory(counts):
    streamed = estimate(run_of(train=["connector"]), counts)
    memory = estimate(run_of(data=DataConfig(), train=["connector"]), counts)
    assert streamed.seconds["reading"] > 0
    assert "reading" not in memory.seconds
    assert memory.flops["training"] > streamed.flops["training"]
    assert "reading" not in estimate(run_of(), counts).seconds  # by trained queries, in each forward


def test_all_clips_of_the_world_are_kept_in_memory(counts):
    found = estimate(run_of(data=DataConfig(num_train=30, num_heldout=12)), counts).phases["training"]
    assert found["latents of all clips"] == 42 * 48 * 32 * 4


def test_parts_of_a_batch_take_less_memory_and_do_the_same(counts):
    whole, parts = (estimate(run_of(micro_batch_size=size), counts) for size in (None, 2))
    assert parts.phases["training"]["activations"] < 0.5 * whole.phases["training"]["activations"]
    # But that the null row, for dropped texts, is read with each part: of 2 + 1 rows, not of 8 + 1.
    read = parts.flops["training"] / whole.flops["training"]
    assert 1 < read < (4 * (2 + 1)) / (8 + 1)


def test_a_step_takes_its_operations_at_the_rate_that_is_assumed(counts):
    alone, shared = estimate(run_of(), counts), estimate(run_of(4, loop=replace(LOOP, batch_size=8)), counts)
    assert alone.seconds["training"] == alone.flops["training"] / (100e12 * 0.5)
    assert alone.seconds["encoding"] == alone.flops["encoding"] / (100e12 * 0.2)
    assert shared.clips == alone.clips / 4 == 2
    assert shared.seconds["encoding"] == alone.seconds["encoding"] / 4
    a_clip = counts.of_heldout(run_of().config, (9, 64, 64), 8, kept=False).flops / 8
    assert alone.flops["evaluating"] == pytest.approx(a_clip * HELD_OUT_ROWS / 100)


def test_what_some_blocks_and_layers_take_tells_what_all_take(counts):
    stage, shape = run_of(gradient_checkpointing=True, precision="bf16").config, (1, 64, 64)

    def work(model):
        return _loss(model, stage, shape, 1, 2, kept=False, train=True)

    assert counts._told(stage, work) == counts.of_training(stage, shape, 1, 2, kept=False)


def test_a_picture_takes_less_than_a_clip_and_the_largest_shape_is_planned(counts):
    assert largest_shape(replace(STREAM, shapes=[[32, 64], [64, 96]]), counts.parts, pictures=False) == (
        9,
        64,
        96,
    )
    assert largest_shape(STREAM, counts.parts, pictures=True) == (1, 64, 64)
    clip, picture = (estimate(run_of(pictures=pictures), counts) for pictures in (False, True))
    assert picture.phases["training"]["activations"] < 0.7 * clip.phases["training"]["activations"]


def test_a_stage_fits_while_a_tenth_of_the_memory_is_left(counts):
    least = estimate(run_of(), counts).peak / (1 - RESERVE)
    assert estimate(run_of(memory=least * 1.001), counts).fits
    assert not estimate(run_of(memory=least * 0.999), counts).fits


def test_a_batch_that_cannot_be_shared_and_an_optimiser_that_cannot_be_spread_are_refused(
    counts, monkeypatch
):
    with pytest.raises(ConfigError, match="joint: loop.batch_size is 8, but each of 16 devices"):
        estimate(run_of(16, loop=LOOP), counts)
    monkeypatch.setattr("pretrain.loop.adamw_8bit", lambda setting: None)  # as if bitsandbytes were there
    loop = LoopConfig(optimizer="adamw_8bit")
    with pytest.raises(ConfigError, match="adamw_8bit has a scale for each 256"):
        estimate(run_of(2, "weights", loop=loop), counts)


def test_a_stage_takes_what_was_planned(tmp_path):
    """As the profiler sees it; docs/scale.md has more."""
    stage = stage_plan_error.config_of(2, **stage_plan_error.CASES["prodigy, checkpointing"])
    model = load_model(Unified.Config(folder="world"))
    planned = stage_plan_error.planned(stage, Counts(outline.of_folder(policy_folder("world"))))
    assert planned == pytest.approx(stage_plan_error.measured(stage, model, tmp_path), rel=0.03)
