"""Whatever a judge's server does, no sample gets a made-up score; the run stops or goes on as configured."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from rlnsp.config import load
from rlnsp.scoring import RewardFailed, build_rewards, score
from rlnsp.settings import (
    EvaluationConfig,
    RewardSlot,
    RunConfig,
    SamplerConfig,
    Slot,
    TrainerConfig,
    WindowConfig,
)
from rlnsp.trainer import train
from rlnsp.types import Sample, Scene
from tests.judge_server import Judge, serving

PAGE = Path(__file__).parents[1] / "docs" / "writing-a-reward.md"
NOBODY = "127.0.0.1:9"
"""The discard port, where nothing listens."""


@pytest.fixture
def served(tmp_path):
    """The reward that docs/writing-a-reward.md shows, as a file of the user's."""
    (code,) = re.findall(r"^```python\n# served\.py\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "served.py").write_text(code)
    return f"{tmp_path / 'served.py'}:Served"


@pytest.fixture
def judge():
    one = Judge()
    with serving(one):
        yield one


SCENES = [Scene(id=name, context=f"after {name}") for name in "ab"]
SAMPLES = [
    Sample(scene=scene, frames=np.full((2, 4, 4, 3), 51 * (2 * i + j), np.uint8), fps=8.0)
    for i, scene in enumerate(SCENES)
    for j in range(2)
]
TRUE = [0.0, 0.2, 0.4, 0.6]


def rewards(served, host, **slot):
    return build_rewards({"judge": RewardSlot(use=served, config={"host": host}, retry_wait_s=0.01, **slot)})


def test_a_judge_that_is_well_gives_every_sample_its_score(served, judge):
    for concurrency in (1, 4):
        found = score(rewards(served, judge.host, concurrency=concurrency), SAMPLES)
        assert found.raw["judge"].tolist() == pytest.approx(TRUE)


ALL = [
    ("down", "ConnectionRefusedError"),
    ("429", "OSError: HTTP 429 Too Many Requests"),
    ("500", "OSError: HTTP 500"),
    ("malformed", "JSONDecodeError"),
    ("empty", "KeyError: 'scores'"),
    ("wrong length", "values for"),
    ("half the batch", "values for"),
    ("slow", "no answer in 0.2 s"),
]


@pytest.mark.parametrize(("fault", "says"), ALL)
def test_a_fault_of_a_call_stops_or_leaves_its_samples_unscored(served, judge, fault, says):
    judge.fault = fault
    host = NOBODY if fault == "down" else judge.host
    with pytest.raises(RewardFailed, match=f"'judge' failed on .*{says}"):
        score(rewards(served, host, timeout_s=0.2), SAMPLES)
    found = score(rewards(served, host, timeout_s=0.2, on_failure="drop", concurrency=2), SAMPLES)
    assert found.raw["judge"].isnan().all()
    assert says in found.errors["judge"]


def test_a_value_that_is_not_a_number_stops_or_leaves_its_own_sample_unscored(served, judge):
    judge.fault = "nan"
    with pytest.raises(RewardFailed, match="'judge' failed on scene 'a': a score must be finite; got nan"):
        score(rewards(served, judge.host), SAMPLES)
    found = score(rewards(served, judge.host, on_failure="drop"), SAMPLES)
    assert found.scored.tolist() == [False, True, True, True]
    assert found.raw["judge"][1:].tolist() == pytest.approx(TRUE[1:])


def test_half_the_batch_unscored_leaves_the_other_half_its_scores(served, judge):
    judge.fault = "half unscored"
    found = score(rewards(served, judge.host), SAMPLES)
    assert found.scored.tolist() == [False, True, False, True]
    assert found.raw["judge"][1::2].tolist() == pytest.approx(TRUE[1::2])


@pytest.mark.parametrize("fault", ["429", "500", "malformed", "half the batch", "slow"])
def test_a_fault_that_goes_away_costs_a_retry_and_no_sample(served, judge, fault):
    judge.fault, judge.failures = fault, 2
    found = score(rewards(served, judge.host, timeout_s=0.8, retries=3), SAMPLES)
    assert found.raw["judge"].tolist() == pytest.approx(TRUE)
    assert found.errors == {}
    assert judge.requests == 3


def test_a_key_comes_from_the_environment_and_reaches_the_judge_alone(
    served, judge, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("JUDGE_KEY", "a-key-that-nobody-may-see")
    config = run_config(served, judge.host, api_key_env="JUDGE_KEY")
    config = replace(config, trainer=replace(config.trainer, report=True))
    judge.fault, judge.failures = "500", -1
    assert train(config, tmp_path / "run") == 1
    assert judge.keys == {"Bearer a-key-that-nobody-may-see"}
    said = capsys.readouterr()
    written = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(written) > 3
    assert (tmp_path / "run" / "report.html").is_file()
    assert not any(b"nobody-may-see" in text for text in [*written, said.out.encode(), said.err.encode()])


def run_config(served, host, on_failure: Any = "raise", num_iterations=4, **settings):
    slot = RewardSlot(
        use=served,
        config={"host": host, **settings},
        on_failure=on_failure,
        concurrency=2,
        retries=1,
        retry_wait_s=0.01,
    )
    return RunConfig(
        policy=Slot(use="rlnsp.testing:ToyPolicy"),
        rewards={"judge": slot},
        algorithm=Slot(use="grpo"),
        sampler=SamplerConfig(num_steps=5, window=WindowConfig(size=2)),
        trainer=TrainerConfig(
            num_iterations=num_iterations,
            scenes_per_iteration=4,
            group_size=4,
            rollout_batch_size=4,
            learning_rate=1e-2,
            save_every=0,
            report=False,
        ),
        evaluation=EvaluationConfig(num_scenes=4, bootstrap=100),
    )


def summary_of(run):
    return json.loads((run / "summary.json").read_text())


def iterations_of(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "reward" in line]


@pytest.mark.parametrize("on_failure", ["raise", "drop"])
def test_a_server_that_is_down_at_the_start_stops_the_run_with_one_line(served, tmp_path, on_failure, capsys):
    run = tmp_path / "run"
    assert train(run_config(served, NOBODY, on_failure), run) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "judge" in line
    assert "ConnectionRefusedError" in line
    if on_failure == "drop":
        assert "100% of 16 samples could not be scored (by reward: judge 16)" in line
    assert summary_of(run)["status"] == "failed"
    assert summary_of(run)["steps"] == 0
    assert not (run / "metrics.jsonl").exists() or iterations_of(run) == []


def test_a_server_that_dies_stops_the_run_and_resuming_it_changes_no_bit(served, tmp_path, capsys):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    judge = Judge()
    with serving(judge) as port:
        assert train(run_config(served, judge.host), straight) == 0
    mortal = Dies(after=4 + 4 * 2 + 1)  # the first evaluation, two iterations, and a group of the third
    with serving(mortal, port):
        assert train(run_config(served, judge.host), broken) == 1
    said = capsys.readouterr()
    assert f"rlnsp train --resume {broken}" in said.out.replace("\n", "")
    assert "'judge' failed on scene" in said.err
    assert summary_of(broken)["steps"] == 2
    with serving(Judge(), port):
        assert train(load(broken / "config.yaml"), broken, resume=True) == 0
    one, other = (load_file(run / "checkpoints/step-4/trained.safetensors") for run in (straight, broken))
    assert all(one[name].equal(other[name]) for name in one)
    one, other = ([line["reward"] for line in iterations_of(run)] for run in (straight, broken))
    assert one == other


class Dies(Judge):
    """Answers so many requests, and then none."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def answer(self, request):
        if self.requests >= self.after:
            self.fault = "500"
        return super().answer(request)


def test_a_run_that_drops_goes_on_without_the_samples_that_failed(served, judge, tmp_path, capsys):
    judge.fault = "nan"
    assert train(run_config(served, judge.host, "drop", num_iterations=2), tmp_path / "run") == 0
    for line in iterations_of(tmp_path / "run"):
        assert line["unscored/judge"] == line["dropped"] == 4 / 16  # the first of each of four groups
        assert 0 < line["reward"] < 1
    assert "judge could not score 4 of 16 samples: scene" in capsys.readouterr().out


def test_a_run_that_drops_stops_beyond_the_share_that_it_allows(served, judge, tmp_path, capsys):
    judge.fault = "half the batch"
    assert train(run_config(served, judge.host, "drop"), tmp_path / "run") == 1
    line = capsys.readouterr().err
    assert "100% of 16 samples could not be scored (by reward: judge 16); at most 50% may" in line
    assert "The last error of judge: scene" in line
    assert "returned 2 values for 4 samples" in line
