from pathlib import Path

import pytest

from pretrain.curate.settings import CurateConfig
from pretrain.stages import PretrainConfig, SFTConfig
from rlnsp import config, plugins
from rlnsp.benchmark import suite
from rlnsp.data import heldout_scenes
from rlnsp.randomness import Randomness
from rlnsp.window import trained_steps

ROOT = Path(__file__).parents[1] / "configs"
RUNS = sorted(
    ROOT.glob("*.yaml")
)  # of stage 3; those in folders have schemas of their own, tested beside those


def test_there_are_configs():
    assert RUNS  # an empty parametrize below would pass silently


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_shipped_run_loads_by_its_name(path):
    assert config.shipped()[path.stem] == path
    config.load(path.stem)


@pytest.mark.parametrize(
    ("name", "trained", "samples"),
    [
        ("flow_grpo", [0, 1, 2, 3, 4, 5, 6, 7, 8], 48 * 24),
        ("mixgrpo", [0, 1, 2, 3], 32 * 12),
        ("dr_grpo", [0, 1, 2], 8 * 12),
        ("ltx_video", [0, 1, 2], 8 * 12),
    ],
)
def test_a_recipe_trains_what_its_authors_do(name, trained, samples):
    run = config.load(name)
    assert trained_steps(run.sampler, Randomness(seed=0)) == trained
    assert run.trainer.scenes_per_iteration * run.trainer.group_size == samples
    algorithm = plugins.find("algorithms", run.algorithm.use)
    settings = config.plugin_settings("algorithms", run.algorithm, "algorithm")
    assert algorithm(settings, run.sampler).config.clip == 1e-4


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("dancegrpo", 9 / 16),
        ("nsp", 12 / 20),
        ("nsp_paper", 12 / 20),
        ("nsp_single_gpu", 4 / 20),
        ("nsp_lora_24gb", 3 / 20),
        ("flow_grpo_fast", 3 / 10),
    ],
)
def test_a_recipe_trains_another_share_of_the_steps_each_iteration(name, share):
    sampler = config.load(name).sampler
    drawn = [trained_steps(sampler, Randomness(seed=0, iteration=i)) for i in range(30)]
    assert {len(steps) / sampler.num_steps for steps in drawn} == {share}
    assert len({tuple(steps) for steps in drawn}) > 2


def test_no_config_is_out_of_reach_of_a_name():
    data = {ROOT / "benchmarks" / "nsp.jsonl"}  # the prompts of the suite beside it
    assert {path.suffix for path in ROOT.rglob("*") if path.is_file() and path not in data} == {".yaml"}


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_suite_loads_by_its_name_with_its_scenes(path):
    asked = suite.load(path.stem)
    run = suite.measured_by(config.load("world"), asked)
    assert set(run.rewards) == set(asked.measures)
    assert heldout_scenes(run.data, 4, 0)


def test_the_papers_scale_is_the_papers_recipe():
    """`nsp` trains the world's policy by it; what differs is what the size asks for."""
    small, large = config.load("nsp"), config.load("nsp_paper")
    assert large.sampler == small.sampler
    assert large.algorithm == small.algorithm
    same = ("num_iterations", "scenes_per_iteration", "group_size", "weight_decay", "max_grad_norm")
    assert {name: getattr(large.trainer, name) for name in same} == {
        name: getattr(small.trainer, name) for name in same
    }


@pytest.mark.parametrize(("folder", "schema"), [("pretrain", PretrainConfig), ("sft", SFTConfig)])
def test_every_shipped_stage_loads_by_its_name(folder, schema):
    found = config.shipped(folder)
    assert {"world", "nsp_paper"} <= set(found)
    for name in found:
        config.load_typed(schema, name, folder=folder)


def test_clips_are_trained_on_in_the_shapes_in_which_they_are_curated():
    """Another aspect would lose most of a tall video to the cropping."""
    cut = config.load_typed(CurateConfig, "paper", folder="curate").clips
    assert [cut.height, cut.width] in cut.shapes
    for folder, schema in (("pretrain", PretrainConfig), ("sft", SFTConfig)):
        assert config.load_typed(schema, "nsp_paper", folder=folder).data.shapes == cut.shapes


def test_the_papers_stages_see_as_many_clips_as_the_paper_says():
    """Epochs of what each sub-stage has; in millions."""
    stages = config.load_typed(PretrainConfig, "nsp_paper", folder="pretrain").text_to_video
    clips = {name: stage.loop.steps * stage.loop.batch_size / 1e6 for name, stage in stages.items()}
    assert clips == pytest.approx({"connect": 3 * 20, "joint": 5 * 9.64, "human": 2 * 10.8}, rel=0.005)
    pairs = config.load_typed(SFTConfig, "nsp_paper", folder="sft").sft.loop
    assert pairs.steps * pairs.batch_size / 1e6 == pytest.approx(0.97, rel=0.01)
