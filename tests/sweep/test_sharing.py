"""What the samplers' and the storage's other half is for: many cells, and many machines."""

import json

import pytest

from rlnsp.sweep import inline
from rlnsp.sweep import study as queue
from rlnsp.sweep.plan import Plan
from rlnsp.sweep.run import Sweep
from tests.sweep.toys import GRID


def test_machines_share_the_work_by_a_database_and_no_disk(training, begin, tmp_path):
    url = f'storage="sqlite:///{tmp_path}/shared.db"'
    (tmp_path / "here").mkdir()
    first, _ = begin(url, *GRID, folder="here/out")
    first.folder.mkdir()
    (first.folder / "study.lock").touch()
    queue.begin(first.plan, queue.open_storage(first.plan.sweep, first.folder), first.name)
    second, _ = begin(url, *GRID, folder="there/out")
    assert second.work(1) == 0
    everything = {(size, seed): 1 for size in (2, 4) for seed in (0, 1)}
    assert training.asked == everything
    assert not (second.folder / "sweep.md").exists()
    assert first.run(1) == 0
    assert training.asked == everything  # what was found is in the database
    assert "| group_size=4 | 0.500 | 0.540 [" in (first.folder / "sweep.md").read_text()


def test_of_enough_random_cells_the_importance_of_each_key_is_said(training, begin, tmp_path):
    training.score = lambda run: run.trainer.learning_rate * 1000
    (tmp_path / "drawn.yaml").write_text(
        f"config: {tmp_path}/toy.yaml\nmetric: bright\nsampler: random\nbudget: 24\nseeds: [0]\n"
        "storage: journal\naxes:\n  trainer.learning_rate: {low: 1e-5, high: 1e-3}\n"
        "  trainer.micro_batch_size: {low: 10, high: 99}\n"
    )
    begin()  # which writes the config that cells begin with
    plan = Plan(inline.load(str(tmp_path / "drawn.yaml"), []))
    sweep = Sweep(plan, tmp_path / "drawn", say=lambda line: None)
    assert sweep.run(1) == 0
    found = json.loads((sweep.folder / "summary.json").read_text())["importance"]
    assert set(found["shares"]) == {"trainer.learning_rate", "trainer.micro_batch_size"}
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert "PED-ANOVA" in found["said"]
