import json

import pytest

from benchmarks import growth
from benchmarks.growth import AXES, BASE, DRAWN
from rlnsp import config
from tests.benchmarks.test_speed import toy


@pytest.mark.parametrize("axis", AXES, ids=lambda axis: axis.name)
def test_every_size_is_a_run_that_differs_in_that_alone(axis):
    base = config.load("world", BASE, [DRAWN])
    runs = {number: config.load("world", [*BASE, *own], [DRAWN]) for number, own in axis.overrides.items()}
    assert len(runs) == 4
    for number, run in runs.items():
        clip = run.policy.config
        pixels = (clip["height"] or 64) * (clip["width"] or 64)
        sizes = {
            "group size": run.trainer.group_size,
            "steps": run.sampler.num_steps,
            "tokens": 3 * pixels // 256,
        }
        usual = {"group size": base.trainer.group_size, "steps": base.sampler.num_steps, "tokens": 48}
        assert sizes == {**usual, axis.name: number}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "speed.md").write_text("{}old{}".format(*growth.MARKS))
    return tmp_path


def test_the_table_and_the_figure_are_written(root, monkeypatch):
    asked = []
    monkeypatch.setattr(growth, "of_run", lambda run: asked.append(run) or toy())
    assert growth.main(["--rounds", "1"]) == 0
    assert len(asked) == sum(len(axis.overrides) for axis in AXES)
    written = json.loads((root / "docs" / "benchmarks" / "growth.json").read_text())
    page = (root / "docs" / "speed.md").read_text()
    assert "old" not in page
    for name, points in written["axes"].items():
        for one in points:
            assert f"| {name} {one['size']} | {one['rollout_s']:.2f} s |" in page
    assert "steps" in (root / growth.FIGURE).read_text()
