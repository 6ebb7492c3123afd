"""``rlnsp eval`` from the command line, with the toy policy."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from rlnsp import cli
from rlnsp.benchmark import suite
from rlnsp.manifest import read_clip, read_manifest, write_clip, write_manifest
from tests.chat_server import speaking

TOY = "use: rlnsp.testing:ToyPolicy\nconfig: {seed: SEED}\n"
SUITE = """
prompts: scenes.jsonl
measures:
  bright: {use: "mine.py:bright"}
  motion: {use: motion}
by: kind
"""
REWARD = """
def bright(completions):
    return [float(clip.mean()) / 255 for clip in completions]
"""
SMALL = ["evaluation.num_steps=2", "evaluation.bootstrap=50"]


def clip(path: Path, *levels: int) -> str:
    """A frame of each brightness."""
    write_clip(path, np.stack([np.full((16, 16, 3), level, np.uint8) for level in levels]), 8.0)
    return path.name


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Two toy policies; a suite of six scenes with clips before and after; clips from elsewhere."""
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        Path(f"toy{seed}.yaml").write_text(TOY.replace("SEED", str(seed)))
    Path("mine.py").write_text(REWARD)
    Path("suite.yaml").write_text(SUITE)
    rows = [
        {
            "id": f"s{i}",
            "context": f"Thing {i} moves.",
            "kind": "odd" if i % 2 else "even",
            "context_clip": clip(Path(f"before{i}.mp4"), 90, 40),
            "video": clip(Path(f"after{i}.mp4"), 200, 200),
        }
        for i in range(6)
    ]
    write_manifest("scenes.jsonl", rows)
    write_manifest("theirs.jsonl", [{"id": r["id"], "context": "-", "video": r["video"]} for r in rows])
    return tmp_path


def evaluated(capsys, *argv):
    code = cli.main(["eval", "--json", *argv, *SMALL])
    out, error = capsys.readouterr()
    assert (code, error) == (0, "")
    return json.loads(out)


def test_policies_clips_from_elsewhere_and_the_context_frame_are_rows_of_one_table(place, capsys):
    asked = ["--policy", "toy0.yaml", "--policy", "other=toy1.yaml", "--clips", "theirs=theirs.jsonl"]
    found = evaluated(capsys, "--prompts", "suite.yaml", *asked, "--copy-context")
    assert list(found) == ["toy0.yaml", "other", "theirs", "context frame"]
    means = {row: one["measures"]["bright"]["mean"] * 255 for row, one in found.items()}
    assert means["theirs"] == pytest.approx(200, abs=2)
    assert means["context frame"] == pytest.approx(40, abs=2)
    distances = {row: one["measures"]["distance_to_future"]["mean"] for row, one in found.items()}
    assert distances["theirs"] == 0
    assert distances["context frame"] == pytest.approx(160 / 255, abs=0.01)
    assert found["context frame"]["measures"]["motion"]["mean"] == 0
    assert found["toy0.yaml"]["seconds_a_clip"] > 0
    assert found["other"]["how"]["policy"] == "toy1.yaml"
    assert found["theirs"]["seconds_a_clip"] is None
    assert found["theirs"]["less"]["baseline"] == "toy0.yaml"
    assert found["theirs"]["less"]["measures"]["bright"]["higher"] == 6


def test_policies_are_compared_on_the_same_noise(place, capsys):
    """The toy's clip is almost all its noise, so that two seeds of its weights differ by little."""
    asked = ["--prompts", "suite.yaml", "--policy", "toy0.yaml", "--policy", "again=toy0.yaml"]
    found = evaluated(capsys, *asked)
    less = found["again"]["less"]["measures"]["bright"]
    assert (less["mean"], less["low"], less["high"], less["p"]) == (0, 0, 0, 1)


def test_the_output_folder_has_the_table_in_every_form_and_the_clips(place, capsys):
    asked = ["--policy", "a=toy0.yaml", "--policy", "b/c=toy1.yaml", "evaluation.num_seeds=2"]
    found = evaluated(capsys, "--prompts", "suite.yaml", *asked, "--output", "out", "--vbench")
    out = place / "out"
    assert json.loads((out / "results.json").read_text()) == found
    lines = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert float(lines[0]["mean"]) == found["a"]["measures"]["bright"]["mean"]
    assert len(list(csv.DictReader((out / "scores.csv").read_text().splitlines()))) == 2 * 3 * 6
    text = (out / "table.md").read_text()
    assert "| policy | bright ↑ | motion ↑ | distance_to_future ↓ | s a clip | GiB |" in text
    assert "bright by kind:" in text
    assert "mine.py:bright" in (out / "settings.yaml").read_text()
    assert {path.name for path in (out / "vbench").iterdir()} == {"a", "b_c"}
    clips = sorted(path.name for path in (out / "vbench" / "a").glob("*.mp4"))
    assert len(clips) == 12
    assert clips[:2] == ["Thing 0 moves.-0.mp4", "Thing 0 moves.-1.mp4"]
    first, second = (read_clip(out / "vbench" / "a" / name)[0] for name in clips[:2])
    assert abs(first.astype(int) - second).mean() > 5  # a seed each


def test_a_manifest_is_measured_by_a_judge_and_by_its_own_checklists(place, capsys):
    def judge(text, images):
        if images:
            return "A thing."
        return "Pass" if "Pass or Fail" in text else "Yes" if "Is it there?" in text else "No"

    rows = [
        {"id": f"q{i}", "context": "-", "checklist": ["Is it there?", "Is it far?"][: i + 1]} for i in (0, 1)
    ]
    write_manifest("asked.jsonl", rows)
    with speaking(judge) as server:
        url = f"config.openai.base_urls=[{server.url}]"
        judges = [f"measures.{name}.{url}" for name in ("causal_consistency", "checklist")]
        found = evaluated(capsys, "--prompts", "asked.jsonl", "--policy", "toy0.yaml", *judges)
    measures = found["toy0.yaml"]["measures"]
    assert measures["causal_consistency"]["mean"] == 1
    assert measures["checklist"]["mean"] == 0.75
    assert measures["distance_to_future"] is None


def judged_by_words(text, images):
    """Passes what opens, has no opinion on balls, fails the rest; says yes to what begins with Does."""
    if images:
        return "A thing."
    if "Pass or Fail" in text:
        return "I cannot say." if "ball" in text else "Pass" if "open" in text else "Fail"
    return "Yes" if text.split("\n\n")[1].startswith("Does") else "No"


def expected(scene):
    """What those words make of a scene: the verdict, and the share of its checklist."""
    said = judged_by_words(f"{scene.context} Pass or Fail", [])
    passed = {"Pass": 1.0, "Fail": 0.0}.get(str(said))
    return passed, np.mean([question.startswith("Does") for question in scene.columns["checklist"]])


def test_the_prompts_nsp_are_judged_by_a_model_behind_a_server(place, capsys):
    """Two policies, a dozen prompts of all categories: verdicts, what has none, checklists, every file."""
    asked = ["--policy", "a=toy0.yaml", "--policy", "b=toy1.yaml", "evaluation.num_scenes=12"]
    with speaking(judged_by_words) as server:
        url = f"config.openai.base_urls=[{server.url}]"
        judges = [f"measures.{name}.{url}" for name in ("causal_consistency", "checklist")]
        found = evaluated(
            capsys, "--prompts", "nsp", *asked, *judges, "--output", "out", "evaluation.num_seeds=1"
        )
    scenes = [scene for scene in read_manifest(suite.load("nsp").prompts) if int(scene.id[-2:]) <= 2]
    verdicts, shares = zip(*map(expected, scenes), strict=True)
    known = [verdict for verdict in verdicts if verdict is not None]
    assert 0 < sum(known) < len(known) < 12
    for row in ("a", "b"):
        measures = found[row]["measures"]
        assert (measures["causal_consistency"]["n"], measures["checklist"]["n"]) == (len(known), 12)
        assert measures["causal_consistency"]["mean"] == pytest.approx(np.mean(known))
        assert measures["checklist"]["mean"] == pytest.approx(np.mean(shares))
        assert set(found[row]["categories"]) == {scene.columns["category"] for scene in scenes}
        assert len(found[row]["categories"]) == 6
    assert found["b"]["less"]["measures"]["causal_consistency"]["scenes"] == len(known)
    text = (place / "out" / "table.md").read_text()
    assert f"- a: causal_consistency on {len(known)} of 12 scenes, the others could not be measured" in text
    lines = list(csv.DictReader((place / "out" / "scores.csv").read_text().splitlines()))
    told = {line["scene"]: line["score"] for line in lines if line["measure"] == "causal_consistency"}
    assert [scene for scene, score in told.items() if not score] == [
        scene.id for scene, verdict in zip(scenes, verdicts, strict=True) if verdict is None
    ]


def test_what_the_judge_said_of_every_clip_is_kept_and_asked_once(place, capsys):
    asked = ["--policy", "a=toy0.yaml", "--policy", "b=toy0.yaml", "evaluation.num_scenes=6"]
    with speaking(judged_by_words) as server:
        url = f"config.openai.base_urls=[{server.url}]"
        judges = [f"measures.{name}.{url}" for name in ("causal_consistency", "checklist")]
        evaluated(capsys, "--prompts", "nsp", *asked, *judges, "--output", "out", "evaluation.num_seeds=2")
        questions = [json.dumps(request["messages"]) for request in server.asked]
    lines = [json.loads(line) for line in (place / "out" / "verdicts.jsonl").read_text().splitlines()]
    told = {(line["policy"], line["scene"], line["seed"], line["measure"]): line for line in lines}
    assert len(told) == len(lines) == 2 * 6 * 2 * 2  # policies, scenes, seeds, measures with a judge
    scenes = {scene.id: scene for scene in read_manifest(suite.load("nsp").prompts)}
    for (_, scene, _, measure), line in told.items():
        passed, share = expected(scenes[scene])
        if measure == "checklist":
            assert np.mean(list(line["checks"].values())) == share
            assert list(line["checks"]) == scenes[scene].columns["checklist"]
        else:
            assert line["passed"] == (None if passed is None else bool(passed))
            assert line["verdict"].startswith("no verdict: ") == (passed is None)
    # Each measure has a cache of its own; the two policies are the same, and so are their clips.
    assert max(questions.count(one) for one in questions) <= 2


def test_of_more_prompts_than_are_asked_for_every_category_has_its_share(place, capsys):
    argv = ["eval", "--prompts", "suite.yaml", "--policy", "toy0.yaml", "--output", "out", *SMALL]
    assert cli.main([*argv, "evaluation.num_scenes=4"]) == 0
    lines = csv.DictReader((place / "out" / "scores.csv").read_text().splitlines())
    assert list(dict.fromkeys(line["scene"] for line in lines)) == ["s0", "s1", "s2", "s3"]
    Path("suite.yaml").write_text(SUITE.replace("by: kind", "by: first"))
    rows = [{"id": f"p{i}", "context": "-", "first": "yes" if i < 5 else "no"} for i in range(7)]
    write_manifest("scenes.jsonl", rows)
    assert cli.main([*argv[:5], *SMALL, "--output", "again", "evaluation.num_scenes=5"]) == 0
    lines = csv.DictReader((place / "again" / "scores.csv").read_text().splitlines())
    assert list(dict.fromkeys(line["scene"] for line in lines)) == ["p0", "p1", "p2", "p5", "p6"]
    capsys.readouterr()


def test_the_row_of_a_run_says_that_it_was_trained_on_the_measure(place, toy, capsys):
    from rlnsp import trainer

    run = toy(num_iterations=1)
    assert trainer.train(run, place / "run", resume=False) == 0
    reward = run.rewards["mine"].use
    Path("suite.yaml").write_text(f"prompts: scenes.jsonl\nmeasures: {{seen: {{use: '{reward}'}}}}\n")
    capsys.readouterr()
    found = evaluated(capsys, "--prompts", "suite.yaml", "--policy", "toy0.yaml", "--policy", "run")
    assert found["run"]["notes"] == [f"trained on seen's {reward}, with the same settings"]
    assert found["toy0.yaml"]["notes"] == []


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "there is nothing to evaluate"),
        (["--policy", "toy0.yaml", "--vbench"], "--vbench needs --output"),
        (["--policy", "toy0.yaml", "--output", "."], "--output .: is there already"),
        (["--policy", "toy0.yaml", "--prompts", "nps"], "--prompts nps: no shipped config of that name; did"),
        (["--policy", "absent.yaml", "--prompts", "suite.yaml", "--output", "out"], "absent.yaml"),
        (["--policy", "toy0.yaml", "measures.motion.config.enough=1"], "give it, or set rewards"),
        (["--policy", "a=toy0.yaml", "--policy", "a=toy1.yaml", "--prompts", "suite.yaml"], "--policy a: is"),
        (["--policy", "toy0.yaml", "--prompts", "suite.yaml", "rewards.x.use=motion"], "measures.NAME.*"),
        (["--clips", "theirs.jsonl", "--prompts", "suite.yaml"], "as NAME=MANIFEST"),
        (["--clips", "few=few.jsonl", "--prompts", "suite.yaml"], "no video of 5 of 6 scenes, of s1, s2, s3"),
        (["--policy", "toy0.yaml", "--prompts", "no-clips.yaml", "--copy-context"], "have no context_clip"),
        (
            ["--policy", "toy0.yaml", "--prompts", "suite.yaml", "measures.motion.config.enoughh=1"],
            "did you mean 'enough'",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_line_and_nothing_is_written(place, capsys, argv, says):
    write_manifest("few.jsonl", [{"id": "s0", "context": "-", "video": "after0.mp4"}])
    write_manifest("plain.jsonl", [{"id": "s0", "context": "-"}])
    Path("no-clips.yaml").write_text("prompts: plain.jsonl\nmeasures: {motion: {use: motion}}\n")
    before = sorted(place.rglob("*"))
    assert cli.main(["eval", *argv, *SMALL]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1
    assert sorted(place.rglob("*")) == before
