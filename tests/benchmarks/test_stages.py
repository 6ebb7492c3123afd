import json

import pytest

from benchmarks import stages, world_weights
from rlnsp import cli, config
from rlnsp.sweep import inline


@pytest.fixture
def asked(monkeypatch):
    """What rlnsp is asked to do; it does nothing, and is done."""
    commands = []
    monkeypatch.setattr(cli, "main", lambda argv: commands.append(argv) or 0)
    return commands


def test_a_run_that_is_done_is_used_again(tmp_path, asked):
    (tmp_path / "summary.json").write_text(json.dumps({"status": "done"}))
    assert stages.reinforced(tmp_path) == tmp_path
    assert asked == []


def test_a_run_that_was_stopped_is_gone_on_with(tmp_path, asked):
    (tmp_path / "summary.json").write_text(json.dumps({"status": "interrupted"}))
    (tmp_path / "checkpoints" / "step-50").mkdir(parents=True)
    stages.reinforced(tmp_path, "--seed=1")
    assert asked == [["train", "--resume", str(tmp_path)]]


def test_a_run_stopped_before_its_first_checkpoint_begins_anew(tmp_path, asked):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    stages.reinforced(run, "--seed=1", reward="nsp_reward=-1")
    assert asked == [["train", "--reward", "nsp_reward=-1", "--output", str(run), "--seed=1"]]
    assert not run.exists()


def test_a_run_that_fails_stops_the_ablation(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "main", lambda argv: 1)
    with pytest.raises(stages.AblationFailed, match="ended with 1"):
        stages.reinforced(tmp_path / "run")


def test_policies_are_put_where_the_sweep_of_stages_looks_for_them(tmp_path, monkeypatch):
    for name in ("a", "b"):
        for part in ("transformer", "connector", "vae"):
            (tmp_path / name / part).mkdir(parents=True)
            (tmp_path / name / part / "weights").write_text(name)
    monkeypatch.setattr(stages, "no_pretraining", lambda *_: tmp_path / "a")
    monkeypatch.setattr(stages, "pretraining_only", lambda *_: tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    assert stages.main(["--policies", "runs/stages"]) == 0
    sweep = inline.load("stages", [])
    assert [(tmp_path / path / "weights").read_text() for path in sweep.needs] == ["a", "b"]
    own = [path for arm in sweep.arms.values() for key, path in arm.items() if key.endswith(".path")]
    assert len(own) == 4
    assert all((tmp_path / path).is_dir() for path in own)


def test_the_commands_of_the_ablation_are_ones_that_rlnsp_takes(tmp_path, asked):
    shorter = f"trainer.num_iterations={stages.NEGATED_ITERATIONS}"
    stages.reinforced(tmp_path / "run", "--seed=2", shorter, reward="nsp_reward=-1")
    run = config.load("world", [shorter], ["nsp_reward=-1"])
    assert run.rewards["nsp_reward"].weight == -1
    assert (
        run.trainer.num_iterations == stages.NEGATED_ITERATIONS < config.load("world").trainer.num_iterations
    )


def test_other_weights_or_another_config_mean_other_runs(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 0")
    keys = set()
    for files, seed in ((1, 0), (2, 0), (2, 1)):
        manifest = {"files": files, "made": len(keys)}
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        (tmp_path / "a.yaml").write_text(f"seed: {seed}")
        keys.add(stages.key(tmp_path, tmp_path / "a.yaml"))
    assert len(keys) == 3
    (tmp_path / "manifest.json").write_text(json.dumps({"files": 2, "made": "later"}))
    assert stages.key(tmp_path, tmp_path / "a.yaml") in keys  # when they were made changes nothing


def test_a_second_folder_takes_from_the_shipped_policy_what_it_lacks(tmp_path):
    slot = stages.slot_of(tmp_path)
    assert slot.config["folder"] == "world"
    assert slot.config["transformer"] == {"path": str(tmp_path / "transformer")}
    (tmp_path / "vae").mkdir()
    assert stages.slot_of(tmp_path).config == {"folder": str(tmp_path)}


def test_what_ships_is_not_trained_again(tmp_path, monkeypatch):
    for name in (world_weights.WITHOUT, world_weights.PRETRAINED):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(world_weights, "shipped", lambda name: tmp_path / name)
    assert stages.no_pretraining(tmp_path / "run", tmp_path) == tmp_path / world_weights.WITHOUT
    assert stages.pretraining_only(tmp_path / "run", tmp_path) == tmp_path / world_weights.PRETRAINED


def test_where_stage_1_is_missing_the_rest_of_it_is_made_here(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(world_weights, "shipped", lambda name: tmp_path / "absent")
    monkeypatch.setattr(world_weights, "RUN", tmp_path / "absent")
    monkeypatch.setattr(world_weights, "rest_of_stage_1", lambda *given: made.append(given) or tmp_path)
    assert stages.pretraining_only(tmp_path / "run", tmp_path / "world") == tmp_path
    settings = config.load_typed(stages.stages.PretrainConfig, "world", folder="pretrain")
    assert made == [(settings, tmp_path / "world", tmp_path / "run" / "pretrain")]


def test_what_make_world_weights_left_is_used_once_stage_1_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(world_weights, "shipped", lambda name: tmp_path / "absent")
    monkeypatch.setattr(world_weights, "RUN", tmp_path)
    monkeypatch.setattr(world_weights, "rest_of_stage_1", lambda *given: tmp_path / "made here")
    settings = config.load_typed(stages.stages.PretrainConfig, "world", folder="pretrain")
    for name in settings.text_to_video:
        assert stages.pretraining_only(tmp_path / "run", tmp_path) == tmp_path / "made here"
        (tmp_path / "pretrain" / name).mkdir(parents=True)
        (tmp_path / "pretrain" / name / "done.json").write_text("{}")
    assert stages.pretraining_only(tmp_path / "run", tmp_path) == tmp_path / "pretrain" / "policy"
