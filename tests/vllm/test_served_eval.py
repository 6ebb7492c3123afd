"""``rlnsp eval`` on the prompts ``nsp``, judged by a real vLLM server with the small judge.

That judge was taught the embedded world alone, so that what it says of these prompts means nothing.  What it
says must come out as it said it.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlnsp.benchmark import suite
from rlnsp.manifest import read_manifest
from tests.vllm.served import FRAMES_PER_SECOND, ROOT, VERDICT_TOKENS, Server

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]

SCENES = 6
TOY = "use: rlnsp.testing:ToyPolicy\nconfig: {seed: 0}\n"
JUDGED = ("causal_consistency", "checklist")


@pytest.fixture(scope="module")
def out(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an evaluation of the shipped policy and a toy one."""
    place = tmp_path_factory.mktemp("eval")
    (place / "toy.yaml").write_text(TOY)
    argv = [sys.executable, "-m", "rlnsp", "eval", "--prompts", "nsp", "--output", str(place / "out")]
    argv += ["--policy", "world", "--policy", f"toy={place / 'toy.yaml'}"]
    argv += [f"evaluation.num_scenes={SCENES}", "evaluation.num_seeds=1", "evaluation.num_steps=2"]
    for name in JUDGED:
        settings = f"measures.{name}.config"
        argv += [f"{settings}.openai.base_urls=[{server.url}]", f"{settings}.frames.fps={FRAMES_PER_SECOND}"]
        argv += [f"{settings}.caption_tokens=64", f"{settings}.verdict_tokens={VERDICT_TOKENS}"]
    # What the judge was taught to be asked; its words are the paper's, Pass and Fail.
    argv += ["measures.causal_consistency.config.prompts=world"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{SCENES} held-out scenes" in done.stdout
    return place / "out"


@pytest.fixture(scope="module")
def said(out: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "verdicts.jsonl").read_text().splitlines()]
    return {(line["policy"], line["scene"], line["measure"]): line for line in lines}


def test_every_prompt_of_every_category_has_an_answer_for_both_policies(
    said: dict[tuple[str, str, str], dict[str, Any]],
) -> None:
    scenes = [scene for scene in read_manifest(suite.load("nsp").prompts) if scene.id.endswith("-01")]
    assert len(scenes) == SCENES
    assert set(said) == {
        (row, scene.id, measure) for row in ("world", "toy") for scene in scenes for measure in JUDGED
    }
    verdicts = [one for (_, _, measure), one in said.items() if measure == "causal_consistency"]
    assert any(one["passed"] is not None for one in verdicts)  # it knows how to answer this question
    assert all(one["passed"] is not None or "no verdict" in one["verdict"] for one in said.values())
    asked = {scene.id: scene.columns["checklist"] for scene in scenes}
    checked = [(scene, one) for (_, scene, measure), one in said.items() if measure == "checklist"]
    assert all(list(one["checks"]) == asked[scene] for scene, one in checked if one["checks"])


def test_scores_unscored_and_means_are_those_of_the_verdicts(
    out: Path, said: dict[tuple[str, str, str], dict[str, Any]]
) -> None:
    lines = csv.DictReader((out / "scores.csv").read_text().splitlines())
    scores = {
        (line["policy"], line["scene"], line["measure"]): line["score"]
        for line in lines
        if line["measure"] in JUDGED
    }
    known: dict[tuple[str, str], list[float]] = {}
    for (row, scene, measure), one in said.items():
        told = scores.get((row, scene, measure), "")  # a measure that nobody has is left out
        if one["passed"] is None:
            assert told == ""
            continue
        right = (
            float(np.mean(list(one["checks"].values()))) if measure == "checklist" else float(one["passed"])
        )
        assert float(told) == pytest.approx(right, abs=1e-6)
        known.setdefault((row, measure), []).append(float(told))
    results = json.loads((out / "results.json").read_text())
    table = (out / "table.md").read_text()
    for measure in JUDGED:
        nowhere = not any((row, measure) in known for row in ("world", "toy"))
        assert (f"- {measure}: could not be measured on any scene" in table) == nowhere
        assert (f"{measure} ↑" in table) != nowhere
    for row in ("world", "toy"):
        for measure in JUDGED:
            found, of = results[row]["measures"][measure], known.get((row, measure), [])
            assert (found["n"] if found else 0) == len(of)
            if of:
                assert found["mean"] == pytest.approx(np.mean(of))
            if 0 < len(of) < SCENES:
                assert f"{row}: {measure} on {len(of)} of {SCENES} scenes" in table
