"""Real runs of ``rlnsp train``: two workers, one of which is killed."""

import json
import subprocess
import sys
import threading
import time

import pytest

from rlnsp import cli
from rlnsp.config import ConfigError
from rlnsp.sweep import inline, trial
from rlnsp.sweep.plan import Plan
from rlnsp.sweep.run import Sweep
from tests.sweep.toys import toy_config


def wait_for(condition, seconds=250):
    """Until it holds; the machine may be busy with other things."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep of two cells that differ in nothing but a name.

    This process trains the first, and another, which is killed halfway, the second: each cell waits, as long
    as its gate is there, in its third iteration.
    """
    home = tmp_path_factory.mktemp("sweep")
    gates = [home / "gate-a", home / "gate-b"]
    for gate in gates:
        gate.touch()
    words = [
        f"config={toy_config(home)}",
        "metric=bright",
        f"rewards.gated.use={home}/toy_rewards.py:Gated",
        f"rewards.gated.config.gate={gates[0]},{gates[1]}",
        "seeds=1",
    ]
    plan = Plan(inline.load(None, words))
    plan.check()
    said: list[str] = []
    sweep = Sweep(plan, home / "out", say=said.append)
    codes: list[int] = []
    runs = [sweep.run_folder(cell.folder, 0) for cell in plan.cells]
    thread = threading.Thread(target=lambda: codes.append(sweep.run(1)))
    thread.start()
    try:
        wait_for(lambda: any(line.startswith("begins") for line in said))
        command = [sys.executable, "-m", "rlnsp", "sweep", *words, "--output", str(sweep.folder), "--worker"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as worker:
            try:
                wait_for(
                    lambda: all((run / "checkpoints" / "step-2" / "state.json").is_file() for run in runs)
                )
            finally:
                worker.kill()
    finally:
        for gate in gates:
            gate.unlink()
        thread.join()
    return sweep, runs, said, codes, worker.pid


@pytest.mark.slow
def test_a_sweep_whose_second_worker_is_killed_completes_right(finished):
    sweep, (straight, killed), said, codes, pid = finished
    assert codes == [0]
    assert any(line.endswith(f":{pid} is gone; its trial is taken up again") for line in said)
    logs = [run.with_name(f"{run.name}.log").read_text() for run in (straight, killed)]
    assert [log.count("trained parameters in") for log in logs] == [1, 2]
    weights = [(run / "adapter" / "adapter_model.safetensors").read_bytes() for run in (straight, killed)]
    assert weights[0] == weights[1]  # gone on with, not begun anew, and to the same end


@pytest.mark.slow
def test_its_table_is_there_in_every_form(finished):
    sweep, runs, *_ = finished
    page = (sweep.folder / "sweep.md").read_text()
    assert page.count("| gate=") == 2
    summary = json.loads((sweep.folder / "summary.json").read_text())
    assert summary["status"] == "done"
    first, second = summary["cells"]
    assert first["after_mean"] == second["after_mean"] == pytest.approx(after(runs[0]), abs=1e-6)
    assert (second["difference"], second["p"], second["reads_as"]) == (0.0, 1.0, "unclear")
    lines = (sweep.folder / "sweep.csv").read_text().splitlines()
    assert len(lines) == 3
    html = (sweep.folder / "report.html").read_text()
    assert html.count("<svg viewBox") >= 2
    assert "unclear" in html


def after(run):
    return json.loads((run / "summary.json").read_text())["heldout_all"]["bright"]["after"]


@pytest.mark.slow
def test_the_same_command_again_trains_nothing(finished):
    sweep, runs, *_ = finished
    before = [(run / "metrics.jsonl").stat().st_mtime_ns for run in runs]
    said: list[str] = []
    assert Sweep(sweep.plan, sweep.folder, say=said.append).run(1) == 0
    assert not any(line.startswith("begins") for line in said)
    assert [(run / "metrics.jsonl").stat().st_mtime_ns for run in runs] == before


@pytest.mark.slow
def test_a_run_that_is_done_is_taken_as_it_is_and_one_of_other_settings_is_not(finished):
    sweep, (run, _), *_ = finished
    first, second = sweep.plan.cells

    def take(cell):
        return trial.train(sweep.plan.run(cell, 0), run, "bright", {}, lambda: False, lambda i, m: False)

    assert take(first).mean("bright") == pytest.approx(after(run), abs=1e-6)
    with pytest.raises(ConfigError, match="holds a run with other settings than this trial"):
        take(second)


def test_a_run_that_fails_says_why(tmp_path, capsys):
    broken = tmp_path / "broken.py"
    broken.write_text(
        "def broken(prompts, completions, **columns):\n    raise ValueError('the judge is out')\n"
    )
    config = toy_config(tmp_path)
    config.write_text(config.read_text().replace("toy_rewards.py:brightness", "broken.py:broken"))
    words = [f"config={config}", "metric=bright", "seeds=1"]
    assert cli.main(["sweep", *words, "--output", str(tmp_path / "out")]) == 1
    assert "failed: base, seed 0: " in (said := capsys.readouterr().out)
    assert "the judge is out" in said


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        (["algorithm=grpo,ddpo", "sampler.rule=cps,flow_sde"], "runs/sweep-algorithm-rule"),
        (["trainer.group_size=4"], "runs/sweep-seeds"),
        (["--config", "mine.yaml"], "runs/sweep-mine"),
        (["trainer.group_size=2,4", "--output", "here"], "here"),
    ],
)
def test_a_sweeps_folder_is_called_by_its_config_or_its_axes(words, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(f"config: {toy_config(tmp_path)}\n")
    taken = []
    monkeypatch.setattr(Sweep, "run", lambda self, jobs: taken.append(str(self.folder)) or 0)
    assert cli.main(["sweep", f"config={tmp_path}/toy.yaml", "metric=bright", "seeds=1", *words]) == 0
    assert taken == [folder]


def test_a_cell_that_trains_nothing_is_evaluated(tmp_path):
    folder = tmp_path / "run"
    config = str(toy_config(tmp_path))
    assert cli.main(["train", "--config", config, "trainer.num_iterations=0", "--output", str(folder)]) == 0
    found = trial.read(folder, "bright")
    assert found.after == found.before
    assert (found.iterations, len(found.after["bright"])) == (0, 8)
    assert found.mean("bright") == pytest.approx(after(folder), abs=1e-6)
