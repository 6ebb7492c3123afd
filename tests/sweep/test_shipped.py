import functools
import math
import re
from pathlib import Path

import pytest

from rlnsp import config
from rlnsp.settings import RunConfig
from rlnsp.sweep import inline
from rlnsp.sweep.plan import Plan
from rlnsp.sweep.work import work
from tests.sweep.toys import toy_config

ROOT = Path(__file__).parents[2] / "configs" / "sweeps"
PAGE = ROOT.parents[1] / "docs" / "sweeps.md"
SHIPPED = ["algorithms", "group_size", "noise", "rewards", "stages"]


@functools.cache
def shipped(name):
    """Its configs are read once."""
    return Plan(inline.load(name, []))


def test_these_are_all():
    assert sorted(config.shipped("sweeps")) == SHIPPED


@pytest.fixture(params=SHIPPED)
def ready(request, tmp_path, monkeypatch):
    """A shipped sweep by its name, where what it needs is there."""
    monkeypatch.chdir(tmp_path)
    plan = shipped(request.param)
    for path in plan.sweep.needs:
        Path(path).mkdir(parents=True)
    return request.param, plan


def test_every_cell_of_a_shipped_sweep_is_a_run_that_can_be_configured(ready):
    _, plan = ready
    plan.check()
    assert len(plan.sweep.seeds) == 3
    assert 2 <= len(plan.cells) <= 9


def test_the_page_has_its_cells_and_iterations(ready):
    name, plan = ready
    row = re.search(rf"^\| `{name}` \| ([\dx ]+) \| ([\d, ]+) \|", PAGE.read_text(), re.MULTILINE)
    assert row
    assert math.prod(map(int, row[1].split("x"))) == len(plan.cells)
    trained = {plan.run(cell, 0).trainer.num_iterations for cell in plan.cells}
    assert set(map(int, row[2].split(","))) == trained


def test_stages_says_what_to_run_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = shipped("stages")
    with pytest.raises(config.ConfigError, match=r"python -m benchmarks.stages --policies runs/stages"):
        plan.check()


def test_the_algorithms_are_all_there():
    plan = shipped("algorithms")
    runs: list[RunConfig] = [plan.run(cell, 0) for cell in plan.cells]
    assert {run.algorithm.use for run in runs} == {"ddpo", "grpo", "grpo_guard", "flow_dppo", "nft", "awm"}


def test_the_rules_are_all_there():
    plan = shipped("noise")
    assert {plan.run(cell, 0).sampler.rule for cell in plan.cells} == {"cps", "flow_sde", "dance_sde"}


def test_group_sizes_are_compared_at_the_same_number_of_samples():
    plan = shipped("group_size")
    trainers = [plan.run(cell, 0).trainer for cell in plan.cells]
    assert {one.scenes_per_iteration * one.group_size for one in trainers} == {96}


def test_the_work_of_an_iteration_by_hand(tmp_path):
    """2 scenes x 4 samples x 4 steps, of which the first 2 are trained; each sample of its own noise."""
    path = toy_config(tmp_path)
    found = work(config.load(path, ["sampler.same_noise=false"]))
    assert (found.forwards, found.backwards, found.trained_fraction) == (8 * 4 + 8 * 2, 16, 0.5)
    # With one noise a group the first step's mean is computed once a scene: 2 forwards in place of 8.
    assert work(config.load(path)).forwards == found.forwards - 6
    # Guidance takes two forwards; a second pass of updates trains twice, and replays for its anchors.
    guided = work(config.load(path, ["sampler.same_noise=false", "sampler.guidance_scale=3"]))
    assert (guided.forwards, guided.trained_fraction) == (2 * found.forwards, 0.5)
    twice = work(config.load(path, ["sampler.same_noise=false", "trainer.updates_per_rollout=2"]))
    assert (twice.forwards, twice.backwards) == (8 * 4 + 3 * 16, 32)
