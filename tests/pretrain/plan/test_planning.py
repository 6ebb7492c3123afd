"""``rlnsp plan --stage``, as it is typed."""

import json
from dataclasses import replace

import pytest

from pretrain.plan import planning
from rlnsp import cli
from rlnsp.plan.stages import StagePlan

SFT = ["plan", "--stage", "sft", "--policy", "world"]
LEAST = ["sft.loop.batch_size=1", "sft.precision=bf16", "sft.gradient_checkpointing=true"]


@pytest.fixture
def runs(monkeypatch):
    """Of what a plan was asked, in the place of counting: (run, parts)."""
    asked = []

    def estimate(run, counts):
        asked.append((run, counts.parts))
        devices = replace(run.devices, memory=1e9)
        empty = {"training": {"weights": 1.0}}
        return StagePlan(
            name=run.name,
            devices=devices,
            phases=empty,
            flops={},
            seconds={"training": 2.0},
            clips=1,
            steps=3,
        )

    monkeypatch.setattr(planning, "estimate", estimate)
    return asked


def test_pretrain_is_planned_stage_by_stage_from_its_own_config(runs, capsys):
    argv = ["plan", "--stage", "pretrain", "--config", "nsp_paper", "--gpus", "32", "--spread", "weights"]
    more = ["--pictures", "connect", "--precompute", "text_to_video.joint.loop.batch_size=64", "--json"]
    assert cli.main([*argv, *more]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["stage"] for one in found["stages"]] == ["connect", "joint", "human"]
    assert (found["devices"], found["spread"], found["fits"]) == (32, "weights", True)
    (connect, parts), (joint, _), (human, _) = runs
    assert [run.pictures for run in (connect, joint, human)] == [True, False, False]
    assert joint.config.loop.batch_size == 64
    assert human.config.loop.batch_size == 256
    assert human.optimizer == "prodigy"
    assert human.data.clips == "precomputed"
    assert (parts.blocks, parts.layers, parts.geometry.num_frames) == (28, 28, 65)


def test_without_a_policy_sft_starts_from_what_the_config_of_its_name_makes(runs):
    assert cli.main(["plan", "--stage", "sft", "--config", "nsp_paper"]) == 0
    ((run, parts),) = runs
    assert run.config.text == "context"
    assert parts.connector == {"num_queries": 256, "hidden": 4096, "out": 4096, "width": 3584}


def test_added_queries_are_counted_by_words_and_marks(runs):
    assert cli.main(SFT) == 0  # whose config says "star: at the top"
    assert cli.main([*SFT, "added_queries=''"]) == 0
    (_, parts), (_, own) = runs
    assert parts.connector["num_queries"] == own.connector["num_queries"] + 5


def test_what_does_not_fit_is_said_and_is_exit_code_1(capsys):
    assert cli.main([*SFT, *LEAST, "--precompute", "--memory-gb", "0.0001"]) == 1
    said = capsys.readouterr().out
    assert "sft does not fit: " in said
    assert "sft.loop.optimizer=adamw_8bit  (" in said
    assert "that is not enough" in said
    assert "each device has all weights" in said
    assert "850 steps: " in said


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
    ],
)
def test_what_cannot_be_planned_is_a_line(capsys, argv, says):
    assert cli.main(["plan", *argv]) == 2
    assert says in capsys.readouterr().err
