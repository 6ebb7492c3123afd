"""``rlnsp plan --stage``, as it is typed."""

import json

import pytest

from pretrain.plan import outline
from rlnsp import cli

SMALL = ["transformer.layers=2", "comprehension.layers=2", "transformer.num_queries=4"]
SFT = ["plan", "--stage", "sft", "--policy", "world", "sft.loop.batch_size=2", "sft.loop.optimizer=prodigy"]


def test_pretrain_is_planned_stage_by_stage_from_its_own_config(capsys):
    argv = ["plan", "--stage", "pretrain", *SMALL, "text_to_video.joint.loop.batch_size=4", "--json"]
    assert cli.main(argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["stage"] for one in found["stages"]] == ["video", "connect", "joint"]
    video, connect, joint = found["stages"]
    assert joint["clips_a_step"] == 4
    assert joint["steps"] == 3600
    assert "connector" not in video["phases"]["training"]  # it trains the DiT alone
    assert connect["phases"]["training"]["gradients"] < joint["phases"]["training"]["gradients"]


def test_sft_is_planned_from_a_policy_folder_and_what_does_not_fit_is_exit_code_1(capsys):
    assert cli.main([*SFT, "--gpus", "2", "--memory-gb", "0.12"]) == 1
    said = capsys.readouterr().out
    assert "sft does not fit: " in said
    assert "--spread" in said
    assert "each device has all weights" in said
    assert cli.main([*SFT, "--gpus", "2", "--spread", "weights", "--precompute", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"]
    assert found["spread"] == "weights"
    (stage,) = found["stages"]
    assert "loading" not in stage["phases"]
    assert stage["encoding_seconds_a_thousand_clips"] > 0


def test_without_a_policy_sft_starts_from_what_the_config_of_its_name_makes(monkeypatch):
    from pretrain.plan import planning
    from rlnsp.plan.estimate import Rates
    from rlnsp.plan.stages import Asked, Devices

    asked_of = []
    monkeypatch.setattr(planning, "estimate", lambda run, counts: asked_of.append(counts.parts) or _Fits())
    on = Devices(count=1, memory=8e10, rates=Rates(), spread="none")
    planning.of_sft(Asked(config="nsp_paper", overrides=[], policy="", pictures=[]), on)
    (parts,) = asked_of
    assert parts.connector == {"num_queries": 256, "hidden": 4096, "out": 4096, "width": 3584}
    assert parts.geometry.num_frames == 65
    assert parts.blocks == parts.layers == 28


class _Fits:
    fits = True


def test_added_queries_are_counted_by_words_and_marks():
    parts = outline.of_folder(outline.files.policy_folder("world"))
    more = outline.with_added_queries(parts, "star: at the top")
    assert more.connector["num_queries"] == parts.connector["num_queries"] + 5
    assert outline.with_added_queries(parts, "") == parts


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (
            ["--stage", "stf"],
            "--stage stf: no such stage can be planned; did you mean 'sft'?; stages: rl, pre",
        ),
        (["--stage", "curate"], "no such stage can be planned"),
        (["--stage", "pretrain", "--policy", "world"], "--policy is of sft"),
        (["--stage", "sft", "--config", "configs/sft/world.yaml"], "--policy: give the folder"),
        (["--stage", "sft", "--policy", "nowhere"], "policy folder nowhere does not exist"),
        (
            ["--stage", "sft", "--policy", "world", "--pictures", "joint"],
            "there is no such stage; stages: sft",
        ),
        (["--stage", "sft", "--policy", "world", "--gpus", "64"], "each of 64 devices has a part"),
        (["--stage", "sft", "--policy", "world", "--seed", "1"], "--seed says nothing"),
        (["--stage", "sft", "--policy", "world", "trainer.group_size=2"], "trainer"),
        (["--precompute"], "--precompute is of stages before rl"),
        (["--spread", "weights"], "--spread weights: a device alone shares nothing"),
    ],
)
def test_what_cannot_be_planned_is_a_line(capsys, argv, says):
    assert cli.main(["plan", *argv]) == 2
    assert says in capsys.readouterr().err
