"""A run keeps what it was judged by; going on, it asks nothing twice and is judged alike."""

import json
import shutil
import zlib

import pytest

from rewards.nsp_reward.prompts import PACKAGED
from rlnsp import cli
from rlnsp.config import to_yaml
from rlnsp.settings import (
    ConfigError,
    EvaluationConfig,
    RewardSlot,
    RunConfig,
    SamplerConfig,
    Slot,
    TrainerConfig,
    WindowConfig,
)
from rlnsp.trainer import train
from tests.chat_server import ChatServer, speaking
from tests.judge_server import serving


def speak(text, images):
    """A caption of every clip its own, and a verdict by chance that is always the same."""
    if images:
        return f"A clip like {zlib.crc32(b''.join(image.tobytes() for image in images))}."
    return "Pass" if sum(map(ord, text)) % 2 else "Fail"


class Mortal(ChatServer):
    """Answers so many requests, and then none; keeps what it answered."""

    def __init__(self, after=10**9):
        super().__init__(speak)
        self.after, self.answered = after, []

    def answer(self, request):
        if self.requests >= self.after:
            self.fault = "500"
        status, body = super().answer(request)
        if status == 200:
            self.answered.append(json.dumps(request, sort_keys=True))
        return status, body


def run_config(url, **settings):
    openai = {"base_urls": [url], "retries": 0, "model": "model"}
    slot = RewardSlot(use="nsp_reward", config={"judge": "openai", "openai": openai, **settings})
    return RunConfig(
        policy=Slot(use="rlnsp.testing:ToyPolicy"),
        rewards={"judge": slot},
        algorithm=Slot(use="grpo"),
        sampler=SamplerConfig(num_steps=5, window=WindowConfig(size=2)),
        trainer=TrainerConfig(
            num_iterations=2, scenes_per_iteration=2, group_size=4, save_every=0, report=False, trackers=[]
        ),
        evaluation=EvaluationConfig(num_scenes=2, bootstrap=10, keep_clips=1),
    )


def rewards_of(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["reward"] for line in lines if "reward" in line]


def test_a_run_that_goes_on_asks_nothing_twice(tmp_path, capsys):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    whole = Mortal()
    with serving(whole) as port:
        assert train(run_config(whole.url), straight) == 0
    first = Mortal(after=len(whole.answered) // 2)
    with serving(first, port):
        assert train(run_config(first.url), broken) == 1
    assert "InternalServerError" in capsys.readouterr().err
    second = Mortal()
    with serving(second, port):
        assert train(run_config(second.url), broken, resume=True) == 0
    assert first.answered
    assert set(first.answered).isdisjoint(second.answered)
    assert sorted([*first.answered, *second.answered]) == sorted(whole.answered)
    assert len(set(whole.answered)) == len(whole.answered)
    assert rewards_of(broken) == rewards_of(straight)


def test_a_run_keeps_its_prompts_and_goes_on_only_with_them(tmp_path):
    prompts = shutil.copytree(PACKAGED / "paper", tmp_path / "mine")
    run = tmp_path / "run"
    with speaking(speak) as server:
        config = run_config(server.url, prompts=str(prompts))
        assert train(config, run) == 0
        kept = run / "rewards" / "judge"
        assert (kept / "prompts" / "judge.txt").read_text() == (prompts / "judge.txt").read_text()
        record = json.loads((kept / "judge.json").read_text())
        assert record["model"]["model"] == "model"
        assert set(record["prompts"]) == {"caption", "judge"}
        (prompts / "judge.txt").write_text("{context} {caption} Pass, or else Fail?")
        with pytest.raises(ConfigError, match=r"rewards\.judge: the judge's prompts have changed since"):
            train(config, run, resume=True)


def test_a_cache_of_one_s_own_is_shared_by_runs(tmp_path):
    with speaking(speak) as server:
        config = run_config(server.url, cache=str(tmp_path / "answers.sqlite"))
        assert train(config, tmp_path / "one") == 0
        asked = server.requests
        assert train(config, tmp_path / "other") == 0
    assert server.requests == asked
    assert not (tmp_path / "one" / "rewards" / "judge" / "answers.sqlite").exists()


def test_a_server_that_is_down_at_the_start_is_one_line_and_no_run_folder(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(to_yaml(run_config("http://127.0.0.1:9/v1")))
    assert (
        cli.main(["train", "--config", str(tmp_path / "mine.yaml"), "--output", str(tmp_path / "run")]) == 2
    )
    said = capsys.readouterr()
    assert said.out == ""
    assert "no server answers at http://127.0.0.1:9/v1" in said.err
    assert "rlnsp judge serve --model FOLDER_OR_HUB_ID --run" in said.err
    assert not (tmp_path / "run").exists()
