import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from rlnsp import cli, config, plugins
from rlnsp.manifest import read_clip
from rlnsp.world import scenes
from tests.policies.tiny import GEOMETRY, make_policy_folder


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """An empty current directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def refusal(capsys, *argv):
    """What ``rlnsp *argv`` says on stderr, having refused it."""
    assert cli.main(argv) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("rlnsp: error: ")
    assert said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["trian"],
            "there is no command 'trian'; did you mean 'train'?; commands: train, generate, eval, reward",
        ),
        (["train", "--reward", "nsp_rewrad"], "did you mean 'nsp_reward'?; installed: "),
        (["train", "--reward", "absent.py:Mine"], "there is no file"),
        (
            ["train", "--config", "wrold"],
            "--config wrold: no shipped config of that name; did you mean 'world'?",
        ),
        (["train", "--config", "absent.yaml"], "--config absent.yaml: there is no such file"),
        (["train", "trainer.group_sise=4"], "unknown key 'trainer.group_sise'; did you mean 'group_size'?"),
        (["train", "trainer.group_size=four"], "trainer.group_size: Value 'four' of type 'str'"),
        (
            ["train", "trainer.group_size=1"],
            "trainer.group_size must be at least 2 to give a baseline; got 1",
        ),
        (["train", "nsp_reward"], "'nsp_reward' is not an override; write key.key=value"),
        (["train", "--seed", "-1"], "seed must be 0 or more; got -1"),
        (["train", "--resume", "absent"], "--resume absent: not a run folder, it has no config.yaml"),
        (["train", "--resume", "absent", "--config", "world"], "--config does not go with --resume"),
        (["train", "policy.config.folder=absent"], "policy folder absent does not exist"),
        (["generate", "A ball.", "-o", "clip.gif"], "--output clip.gif: must end in .mp4"),
        (["generate", "A ball.", "-o", "absent/clip.mp4"], "there is no folder absent; make it first"),
        (["generate", " "], "the context is empty"),
        (["generate", "A ball.", "--num-samples", "0"], "--num-samples must be at least 1; got 0"),
        (["generate", "A ball.", "--policy", "absent"], "policy folder absent does not exist"),
        (["eval", "--policy", "absent"], "policy folder absent does not exist"),
        (["eval", "--policy", "world", "--policy", "world"], "--policy world: is given twice"),
        (["report", "absent"], "absent: not a run folder, it has no config.yaml"),
        (["report", "absent", "-o", "page.pdf"], "--output page.pdf: must end in .html"),
        (["report", "absent", "-o", "there/page.html"], "there is no folder there; make it first"),
    ],
)
def test_bad_input_is_one_line_with_the_remedy_and_nothing_is_written(argv, message, inside, capsys):
    assert message in refusal(capsys, *argv)
    assert list(inside.iterdir()) == []


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    return make_policy_folder(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(
    "part", ["policy.json", "vae/config.json", "transformer/diffusion_pytorch_model.safetensors"]
)
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_policy_folder_is_refused_before_anything_is_written(
    part, damage, tiny_folder, inside, capsys, tmp_path
):
    folder = tmp_path / "policy"
    shutil.copytree(tiny_folder, folder)
    whole = (folder / part).read_bytes()
    (folder / part).unlink()
    if damage == "truncated":
        (folder / part).write_bytes(whole[: len(whole) // 2])
    assert str(folder) in refusal(capsys, "train", f"policy.config.folder={folder}", "--output", "out")
    assert list(inside.iterdir()) == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "manifest.jsonl: the manifest has no scene"),
        (
            [{"id": "a", "context": "A ball.", "video": "a.mp4"}],
            "manifest.jsonl:1: video 'a.mp4' is not there",
        ),
        ([{"id": "a", "context": "Prices fell on Monday."}], "rewards.nsp_reward: scene 'a': "),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused_before_anything_is_written(
    lines, message, tiny_folder, inside, capsys
):
    (inside / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = f"policy.config.folder={tiny_folder}"
    argv = ["train", folder, "data.train=manifest.jsonl", "trainer.scenes_per_iteration=1", "--output", "out"]
    assert message in refusal(capsys, *argv)
    assert [path.name for path in inside.iterdir()] == ["manifest.jsonl"]


def test_a_folder_that_holds_something_is_not_written_into(inside, capsys):
    (inside / "out").mkdir()
    (inside / "out" / "thesis.txt").write_text("three years")
    assert "--output out: exists and is not empty" in refusal(capsys, "train", "--output", "out")
    assert [path.name for path in (inside / "out").iterdir()] == ["thesis.txt"]


def test_a_dry_run_prints_a_config_that_loads_and_writes_nothing(inside, capsys, tmp_path):
    assert (
        cli.main(["train", "--dry-run", "--seed", "3", "--reward", "nsp_reward=2", "trainer.group_size=4"])
        == 0
    )
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    run = config.load(tmp_path / "printed.yaml")
    assert (run.seed, run.trainer.group_size, run.rewards["nsp_reward"].weight) == (3, 4, 2)
    assert list(inside.iterdir()) == []


def test_overrides_may_stand_between_flags(capsys):
    assert cli.main(["train", "seed=1", "--reward", "nsp_reward", "trainer.group_size=4", "--dry-run"]) == 0
    assert "group_size: 4" in capsys.readouterr().out


def test_seed_the_flag_wins_over_seed_the_override(capsys):
    assert cli.main(["train", "seed=1", "--seed", "2", "--dry-run"]) == 0
    assert re.search("^seed: 2$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("name", [*cli.OWN, *plugins.installed("commands")])
def test_every_command_has_help_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert f"usage: rlnsp {name}" in said
    assert re.search(rf"^ +rlnsp {name} ", said, re.MULTILINE)


def test_help_lists_every_command(capsys):
    assert cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in [*cli.OWN, *plugins.installed("commands")])


def test_a_plugin_that_cannot_be_loaded_does_not_take_the_help_away(capsys, monkeypatch):
    broken = EntryPoint(name="broken", value="no_such_module:COMMAND", group="rlnsp.commands")
    monkeypatch.setattr(plugins, "installed", lambda kind: {"broken": broken})
    assert cli.main(["--help"]) == 0
    assert "broken     (cannot be loaded: No module named 'no_such_module')" in capsys.readouterr().out


def test_no_command_is_bad_usage(capsys):
    assert cli.main([]) == 2
    assert "usage: rlnsp COMMAND" in capsys.readouterr().err


def test_an_unknown_flag_is_bad_usage_and_flags_are_not_abbreviated():
    for flag in ("--rewards=nsp_reward", "--rew=nsp_reward"):
        with pytest.raises(SystemExit) as stop:
            cli.main(["train", flag])
        assert stop.value.code == 2


def test_reward_list_names_what_is_installed(capsys):
    assert cli.main(["reward", "list"]) == 0
    assert re.search("^nsp_reward .*causally consistent", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_with_its_own_exit_code(number, code, tmp_path):
    script = tmp_path / "waits.py"
    script.write_text(
        "import sys, time\n"
        "from types import SimpleNamespace\n"
        "from rlnsp import cli\n"
        "def run(args):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "waits = SimpleNamespace(add_arguments=lambda parser: None, run=run)\n"
        "cli._find = lambda name: ('wait', waits)\n"
        "sys.exit(cli.main(['wait']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (code, "")


def test_generate_writes_a_clip_a_sample_of_the_policys_size(tiny_folder, inside):
    context = scenes("train", 1, seed=0)[0].context
    argv = ["generate", context, "--policy", str(tiny_folder), "evaluation.num_steps=2"]
    for output, more in (("one.mp4", []), ("again.mp4", []), ("two.mp4", ["--num-samples", "2"])):
        assert cli.main([*argv, "-o", output, *more]) == 0
    names = ["again.mp4", "one.mp4", "two-0.mp4", "two-1.mp4"]
    assert [path.name for path in sorted(inside.iterdir())] == names
    again, one, first, second = (read_clip(inside / name)[0].astype(int) for name in names)
    assert one.shape == (GEOMETRY.num_frames, GEOMETRY.height, GEOMETRY.width, 3)
    assert (one == again).all()  # a seed gives the same clip again
    # Another batch is another order of sums, which the codec magnifies: the same clip, not the same bits.
    assert abs(one - first).mean() < 3 < abs(first - second).mean()


def test_a_run_is_trained_evaluated_resumed_and_generated_from(inside, capsys):
    """The four commands hand over to each other through the run folder alone."""
    small = ["trainer.scenes_per_iteration=2", "trainer.group_size=2", "evaluation.num_scenes=2"]
    assert (
        cli.main(["train", "--output", "run", "trainer.num_iterations=1", "sampler.num_steps=4", *small]) == 0
    )
    assert cli.main(["train", "--resume", "run", "trainer.num_iterations=2"]) == 0
    assert json.loads((inside / "run" / "summary.json").read_text())["steps"] == 2
    assert cli.main(["generate", "A red ball rolls right.", "--policy", "run", "-o", "next.mp4"]) == 0
    capsys.readouterr()
    argv = ["eval", "--policy", "world", "--policy", "run", "--json", "evaluation.num_steps=2", *small]
    assert cli.main(argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["world", "run"]
    low, high = found["run"]["measures"]["nsp_reward"]["ci95"]
    assert 0 <= low <= found["run"]["measures"]["nsp_reward"]["mean"] <= high <= 1


def test_eval_prints_a_table_of_what_could_be_measured(tiny_folder, plugin_file, capsys):
    reward = f"rewards.nsp_reward.use={plugin_file}:plain"
    small = ["evaluation.num_scenes=2", "evaluation.num_steps=2"]
    assert cli.main(["eval", "--policy", str(tiny_folder), reward, *small]) == 0
    said = capsys.readouterr().out
    assert "2 held-out scenes" in said
    assert "0.000 to 0.000" in said
    assert "distance_to_future" not in said  # the tiny policy's clips are not of the world's size
