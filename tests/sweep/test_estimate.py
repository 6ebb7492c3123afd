import subprocess

import pytest

from rlnsp import cli, config
from rlnsp.config import ConfigError
from rlnsp.sweep import estimate
from rlnsp.sweep.estimate import Calibration, calibrate, described
from tests.sweep.toys import toy_config, toy_plan


@pytest.fixture
def in_this_process(monkeypatch):
    """``rlnsp`` is called, not started, which takes seconds; what it was asked to do."""
    asked = []
    started = subprocess.run

    def run(command, **options):
        if command[1:3] != ["-m", "rlnsp.sweep.leash"]:
            return started(command, **options)  # git, for the run's record
        asked.append((command, options))
        code = cli.main([str(word) for word in command[3:]])
        return subprocess.CompletedProcess(command, code, "", "rlnsp: error: broken on purpose\n")

    monkeypatch.setattr(estimate.subprocess, "run", run)
    return asked


def test_a_run_is_its_start_its_iterations_by_model_calls_and_its_clips(tmp_path):
    measured = Calibration(iteration_s=2.0, cost=74, clip_s=0.5, start_s=3.0)
    run = config.load(toy_config(tmp_path))
    # Its own cost is 42 forwards + 2 x 16 backward passes = 74; 4 iterations; 8 scenes before and after.
    assert measured.run_s(run) == pytest.approx(3 + 4 * 2.0 + 16 * 0.5)
    often = config.load(toy_config(tmp_path), ["evaluation.every=2", "evaluation.num_seeds=3"])
    assert measured.run_s(often) == pytest.approx(3 + 4 * 2.0 + 3 * 24 * 0.5)  # after 2 of 4, too
    none = config.load(toy_config(tmp_path), ["trainer.num_iterations=0"])
    assert measured.run_s(none) == pytest.approx(3 + 16 * 0.5)


def test_a_short_run_is_measured_and_thrown_away(tmp_path, in_this_process):
    run = config.load(toy_config(tmp_path))
    found = calibrate(run, {"OMP_NUM_THREADS": "1"})
    assert 0 < found.iteration_s < 60
    assert 0 < found.clip_s < 60
    assert found.cost == 74
    # The run asks git for its commit, too.
    ((command, options),) = [asked for asked in in_this_process if "train" in asked[0]]
    assert command[1:4] == ["-m", "rlnsp.sweep.leash", "train"]
    assert options["env"]["OMP_NUM_THREADS"] == "1"
    assert not command[-1].parent.exists()


def test_a_short_run_that_fails_is_an_error(tmp_path, in_this_process):
    run = config.load(toy_config(tmp_path), ["data.train=absent.jsonl"])
    with pytest.raises(
        ConfigError, match="the short run that measures the time failed: .* broken on purpose"
    ):
        calibrate(run, {})


def test_a_dry_run_names_the_cells_and_the_whole_time_and_writes_nothing(tmp_path, monkeypatch, capsys):
    measured = Calibration(iteration_s=60.0, cost=74, clip_s=0.0, start_s=0.0)
    monkeypatch.setattr(estimate, "calibrate", lambda run, environment: measured)
    path = toy_config(tmp_path)
    argv = ["sweep", f"config={path}", "metric=bright", "trainer.num_iterations=4,8", "--dry-run"]
    assert cli.main([*argv, "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "num_iterations=4: 4.0 min a run" in said
    assert "num_iterations=8: 8.0 min a run" in said
    assert "6 runs, 1 at once: about 36 minutes." in said
    assert not (tmp_path / "out").exists()


def test_a_budget_is_reckoned_by_the_mean_of_its_cells(tmp_path):
    plan = toy_plan(tmp_path, "trainer.num_iterations=4,8", "sampler=random", "budget=5", "seeds=2")
    lines = described(plan, 2, Calibration(iteration_s=60.0, cost=74, clip_s=0.0, start_s=0.0))
    assert lines[-1].startswith("10 runs, 2 at once: about 30 minutes.")
