import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from fnmatch import fnmatchcase

import pytest

from benchmarks.file_faults import FileFaults, full_disk
from rlnsp import checkpoint, cli
from rlnsp.config import by_key, load, to_yaml
from rlnsp.lock import locked
from rlnsp.opening import open_policy
from rlnsp.resuming import MAY_DIFFER
from rlnsp.settings import ConfigError, EvaluationConfig, Slot
from rlnsp.trainer import Run, train
from tests.toy_runs import metrics_of, summary_of, toy_config


def test_a_run_goes_on_bit_for_bit_after_kill_9_or_a_full_disk_whenever_that_comes():
    """In processes of their own: torch's autograd does not survive a fork of this one."""
    command = [sys.executable, "-m", "benchmarks.survival", "--algorithms", "nft", "--every", "19"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    name, *shares = done.stdout.strip("| \n").split(" | ")
    counts = [share.split(" of ") for share in shares]
    assert name == "nft"
    assert all(same == tried for same, tried in counts)
    assert [int(tried) for _, tried in counts] == [1, 2, 2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 4 iterations with checkpoints at 2 and 4."""
    folder = tmp_path_factory.mktemp("whole")
    settings = {"num_iterations": 4, "group_size": 3, "trackers": []}
    config = toy_config(folder, evaluation=EvaluationConfig(num_scenes=4, bootstrap=10), **settings)
    assert train(config, folder / "run") == 0
    return folder / "run"


@pytest.fixture
def halves(whole, tmp_path):
    """A copy of it, to go on with or to damage."""
    return shutil.copytree(whole, tmp_path / "run")


def resumed(run, *overrides):
    return cli.main(["train", "--resume", str(run), *overrides])


def refusal(capsys, run, *overrides):
    """What is said of a resumption that is refused, which leaves every file as it was."""
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert resumed(run, *overrides) == 2
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    before.pop(run / ".lock")
    after.pop(run / ".lock")
    assert after == before
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    return said.err


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_taken(halves, toy, capsys):
    victim = halves / "checkpoints" / "step-4" / "optimizer.safetensors"
    whole = (halves / "adapter" / "adapter_model.safetensors").read_bytes()
    victim.write_bytes(b"\0" + victim.read_bytes()[1:])
    capsys.readouterr()
    assert resumed(halves) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert f"{victim.parent} is damaged: optimizer.safetensors is not as it was written" in said
    assert "going on from step-2, the newest that is intact" in said
    assert checkpoint.fault(victim.parent) is None  # replaced by the same iteration, done again
    assert (halves / "adapter" / "adapter_model.safetensors").read_bytes() == whole


def test_without_an_intact_checkpoint_every_fault_is_named(halves, capsys):
    for step in ("step-2", "step-4"):
        (halves / "checkpoints" / step / "state.json").unlink()
    said = refusal(capsys, halves)
    assert "has no intact checkpoint" in said
    assert said.count("state.json is missing") == 2


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(halves, capsys):
    for step in ("step-2", "step-4"):
        shutil.rmtree(halves / "checkpoints" / step)
    whole = (halves / "adapter" / "adapter_model.safetensors").read_bytes()
    assert resumed(halves) == 0
    assert "has no checkpoint yet; it begins with the first iteration" in capsys.readouterr().out.replace(
        "\n", " "
    )
    assert (halves / "adapter" / "adapter_model.safetensors").read_bytes() == whole


def test_settings_that_decide_nothing_may_differ_and_are_named(halves, capsys):
    changed = ["trainer.num_iterations=5", "trainer.save_every=1", "rewards.mine.retries=2"]
    assert resumed(halves, *changed, "trainer.micro_batch_size=50") == 0
    said = capsys.readouterr().out
    for line in ("trainer.num_iterations is 5, was 4", "rewards.mine.retries is 2, was 0"):
        assert line in said
    assert "sums are rounded in another order than before" in said
    assert summary_of(halves)["steps"] == 5
    assert load(halves / "config.yaml").trainer.num_iterations == 5
    assert resumed(halves) == 0  # with what it has now


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("trainer.learning_rate=0.5", "trainer.learning_rate is 0.5, was 0.01. Leave that out"),
        ("seed=3", "seed is 3, was 0"),
        ("rewards.mine.weight=2", "rewards.mine.weight is 2.0, was 1.0"),
        ("evaluation.num_scenes=5", "evaluation.num_scenes is 5, was 4"),
        ("algorithm.config.clip=0.1", "algorithm.config.clip is 0.1, was 0.0001"),
        ("policy.config.width=4", "policy.config.width is 4, was 8"),
        ("trainer.ema_decay=0.5", "trainer.ema_decay is 0.5, was None"),
        ("trainer.num_iterations=3", "trainer.num_iterations is 3, but 4 are finished"),
    ],
)
def test_settings_that_would_make_it_another_run_are_refused(override, says, halves, capsys):
    said = refusal(capsys, halves, override)
    assert says in said


def test_a_config_that_was_edited_by_hand_is_compared_with_the_checkpoints(halves, capsys):
    config = load(halves / "config.yaml")
    edited = replace(config, trainer=replace(config.trainer, learning_rate=0.5))
    (halves / "config.yaml").write_text(to_yaml(edited))
    assert "trainer.learning_rate is 0.5, was 0.01" in refusal(capsys, halves)


def test_every_setting_that_may_differ_is_there():
    keys = by_key(load("world"))
    assert [pattern for pattern in MAY_DIFFER if not any(fnmatchcase(key, pattern) for key in keys)] == []


def test_the_same_command_again_offers_to_go_on(halves, toy, capsys):
    with pytest.raises(ConfigError) as refused:
        train(toy(), halves)
    said = str(refused.value)
    assert "has a run already, done after 4 iterations" in said
    assert f"rlnsp train --resume {halves}" in said
    (halves / "summary.json").unlink()
    with pytest.raises(ConfigError, match="which has not ended"):
        train(toy(), halves)


def test_a_run_folder_in_use_is_refused(halves, capsys):
    with locked(halves):
        assert "in use by process" in refusal(capsys, halves)


def test_a_disk_that_fills_up_ends_the_run_in_one_line_and_loses_nothing(toy, tmp_path, monkeypatch, capsys):
    run, save, faults = tmp_path / "run", Run._save, FileFaults(5, full_disk)
    config = toy(group_size=3, trackers=[], evaluation=EvaluationConfig(num_scenes=4))

    def short_of_room(self):
        with faults.armed() if self.finished == 4 else nullcontext():
            save(self)

    monkeypatch.setattr(Run, "_save", short_of_room)
    assert train(config, run) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "step-4: cannot be written (No space left on device); free some space, then go on by: " in error
    assert f"rlnsp train --resume {run}" in error
    assert summary_of(run)["status"] == "failed"
    assert "No space left" in summary_of(run)["error"]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-2"]
    monkeypatch.undo()
    assert train(config, run, resume=True) == 0
    assert [line["iteration"] for line in metrics_of(run)] == [0, 1, 2, 3, 4, 4]


def test_a_place_where_no_run_can_be_made_is_refused_before_the_policy_is_loaded(toy, tmp_path):
    (tmp_path / "file").touch()
    nowhere = replace(toy(), policy=Slot(use="unified", config={"folder": "absent"}))
    with pytest.raises(ConfigError, match="file cannot be written to; choose another folder"):
        train(nowhere, tmp_path / "file" / "run")


def test_the_best_checkpoints_stay_and_open_as_policies(toy, tmp_path, capsys):
    """With the reward negated the score falls, and the lowest is the best."""
    for weight in (1.0, -1.0):
        run = tmp_path / f"run{weight}"
        evaluation = EvaluationConfig(num_scenes=4, every=1, bootstrap=10)
        often = {"num_iterations": 5, "learning_rate": 0.05, "save_every": 0, "trackers": []}
        config = toy(weight=weight, evaluation=evaluation, keep_last=1, keep_best=1, **often)
        assert train(config, run) == 0
        lines = [line for line in metrics_of(run) if "heldout/mine" in line and line["iteration"]]
        best = max(lines, key=lambda line: weight * line["heldout/mine"])["iteration"]
        kept = {checkpoint.iteration_of(path) for path in checkpoint.checkpoints(run / "checkpoints")}
        assert kept == {best, 5}
        assert f"{run}/checkpoints/step-{best}" in capsys.readouterr().out.replace("\n", "")
        open_policy(Slot(use="rlnsp.testing:ToyPolicy"), str(run / "checkpoints" / f"step-{best}"))
