from pathlib import Path

import pytest

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
    ("name", "share"), [("dancegrpo", 9 / 16), ("nsp", 12 / 20), ("flow_grpo_fast", 3 / 10)]
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
