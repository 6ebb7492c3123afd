"""The judge of the embedded world behind a real vLLM server: it answers, agrees, trains a policy, dies."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from rewards.nsp_reward.judging import Decision
from rewards.nsp_reward.local import LocalConfig
from rewards.nsp_reward.model_judge import ModelJudge
from rewards.nsp_reward.reward import NSPReward
from rlnsp.built_reward import build_rewards
from rlnsp.chat import ChatClient, ChatConfig, FramesConfig
from rlnsp.scoring import RewardFailed, score
from rlnsp.settings import RewardSlot
from tests.vllm.served import FRAMES_PER_SECOND, MODEL, ROOT, VERDICT_TOKENS, Server, clips, settings

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]

SCENES = 16
SAME_CAPTIONS = 0.9
"""Share: a tie between two words may fall either way when kernels round differently."""
TOLERANCE = 1e-3
"""Of P(Pass), where the captions are the same; both compute in fp32."""
TRAINING = [
    "trainer.scenes_per_iteration=2",
    "trainer.group_size=2",
    "trainer.save_every=1",
    "trainer.report=false",
    "evaluation.num_scenes=2",
    "evaluation.num_seeds=1",
]


def decided(judge: Literal["transformers", "openai"], server: Server) -> list[Decision]:
    """What it says of ``clips``."""
    reward = NSPReward(
        NSPReward.Config(
            judge=judge,
            mode="soft",
            prompts="world",
            frames=FramesConfig(fps=FRAMES_PER_SECOND),
            verdict_tokens=VERDICT_TOKENS,
            transformers=LocalConfig(model=str(MODEL), dtype="fp32", device="cpu"),
            openai=ChatConfig(base_urls=[server.url]),
        )
    )
    assert isinstance(reward.judge, ModelJudge)
    found = reward.judge.decide(clips(SCENES))
    if isinstance(reward.judge.chat, ChatClient):
        reward.judge.chat.close()
    assert all(isinstance(one, Decision) for one in found), found
    return [one for one in found if isinstance(one, Decision)]


@pytest.fixture(scope="module")
def served(server: Server) -> list[Decision]:
    return decided("openai", server)


def test_captions_and_graded_verdicts_come_back(served: list[Decision]) -> None:
    assert all(one.caption.endswith(".") for one in served)
    true, still = served[:SCENES], served[SCENES:]
    # A caption names kind, colours, sides and speed: hardly two scenes of so few have the same.
    assert len({one.caption for one in true}) > SCENES / 2
    assert all(0 < one.score < 1 for one in served)
    assert sum(one.score for one in true) > sum(one.score for one in still)


def test_served_and_in_process_judges_agree(server: Server, served: list[Decision]) -> None:
    pairs = list(zip(served, decided("transformers", server), strict=True))
    same = [(a, b) for a, b in pairs if a.caption == b.caption]
    assert len(same) >= SAME_CAPTIONS * len(pairs)
    assert max(abs(a.score - b.score) for a, b in same) < TOLERANCE


def test_a_run_trains_against_the_server(server: Server, tmp_path: Path) -> None:
    done = train(tmp_path / "run", [*settings(server), *TRAINING, "trainer.num_iterations=3"])
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "done"
    rows = metrics(tmp_path / "run")
    assert [row["iteration"] for row in rows] == [1, 2, 3]
    assert all(row["reward/nsp_reward"] in (0, 0.25, 0.5, 0.75, 1) for row in rows)  # of four clips


def test_a_server_that_is_killed_stops_the_run_and_resuming_goes_on(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    connected = {how: build_rewards({"nsp_reward": slot(server, how)}) for how in ("raise", "drop")}
    argv = command(folder, [*settings(server), *TRAINING, "trainer.num_iterations=40"])
    run = subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while len(metrics(folder)) < 2:
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.1)
    server.kill()
    _, said = run.communicate(timeout=300)
    assert run.returncode == 1
    assert "reward 'nsp_reward' failed" in said
    before = metrics(folder)
    assert len(before) < 40

    with pytest.raises(RewardFailed, match="nsp_reward"):
        score(connected["raise"], clips(2))
    dropped = score(connected["drop"], clips(2))
    assert dropped.raw["nsp_reward"].isnan().all()
    assert "Connection" in dropped.errors["nsp_reward"]

    server.start()
    last = before[-1]["iteration"]
    resumed = subprocess.run(
        [*command(folder, [f"trainer.num_iterations={last + 1}"], "--resume")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stderr
    after = metrics(folder)
    assert [row["iteration"] for row in after] == list(range(1, last + 2))
    assert after[: last - 1] == before[: last - 1]


def slot(server: Server, on_failure: Literal["raise", "drop"]) -> RewardSlot:
    config: dict[str, Any] = {
        "judge": "openai",
        "prompts": "world",
        "frames": {"fps": FRAMES_PER_SECOND},
        "verdict_tokens": VERDICT_TOKENS,
        "openai": {"base_urls": [server.url], "retries": 1, "retry_wait_s": 0.1},
    }
    return RewardSlot(use="nsp_reward", config=config, on_failure=on_failure)


def command(folder: Path, overrides: Sequence[str], where: str = "--output") -> list[str]:
    reward = ["--reward", "nsp_reward"] if where == "--output" else []
    return [sys.executable, "-m", "rlnsp", "train", *reward, where, str(folder), *overrides]


def train(folder: Path, overrides: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(folder, overrides), cwd=ROOT, capture_output=True, text=True, check=False)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Of each iteration; held-out evaluations have lines of their own."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [row for row in rows if "reward" in row]
