import pytest

from benchmarks.ablation_table import (
    CONTROL,
    MARKS,
    PRETRAINED,
    RL,
    SFT,
    WITHOUT,
    Row,
    claims,
    markdown,
    page,
)
from benchmarks.pages import fill
from rlnsp.evaluate import DISTANCE, Evaluation

HOW = {"sampler": "ode", "num_steps": 8, "guidance_scale": 1.0, "seeds": [0, 1, 2], "weights": "live"}


def evaluation(scores, distance=0.1):
    ids = [f"scene-{i}" for i in range(len(scores))]
    measures = {"nsp_reward": list(scores), DISTANCE: [distance] * len(scores)}
    return Evaluation(scene_ids=ids, scores=measures, how=HOW, bootstrap=200)


def rows(after=1.0, negated=0.0, distance=0.1):
    """Forty scenes; + SFT passes every other one."""
    half = [0.0, 1.0] * 20
    without = Row(name=WITHOUT, evaluations=[evaluation([0.0] * 40)])
    pretrained = Row(name=PRETRAINED, evaluations=[evaluation([0.0, 0.5] * 20)], compared_to=without)
    tuned = Row(name=SFT, evaluations=[evaluation(half)], compared_to=pretrained)
    runs = [evaluation([after] * 40, distance), evaluation(half, distance)]
    return [
        without,
        pretrained,
        tuned,
        Row(name=RL, evaluations=runs, compared_to=tuned),
        Row(name=CONTROL, evaluations=[evaluation([negated] * 40)], compared_to=tuned),
    ]


def test_several_runs_are_one_row_by_their_mean_scene_by_scene():
    row = rows(after=1.0)[3]
    assert row.pooled.scores["nsp_reward"] == [0.5, 1.0] * 20
    assert row.interval("nsp_reward").mean == 0.75
    assert row.to_json()["nsp_reward"]["runs"] == [1.0, 0.5]


def test_the_difference_is_to_the_row_that_training_started_from():
    difference = rows(after=1.0)[3].difference("nsp_reward")
    assert difference is not None
    assert difference.mean == 0.25  # 0.75 - 0.5
    assert rows()[4].to_json()["compared_to"] == SFT
    assert rows()[0].difference("nsp_reward") is None


@pytest.mark.parametrize(
    ("changed", "fails"),
    [
        ({}, None),
        ({"after": 0.5}, "RL raises consistency"),
        ({"negated": 0.5}, "RL with the reward negated lowers consistency"),
        ({"distance": 0.2}, "RL does not move clips away from the true futures"),
    ],
)
def test_each_claim_can_fail(changed, fails):
    assert [claim for claim, holds in claims(rows(**changed)).items() if not holds] == [fails] * bool(fails)


def test_the_table_has_the_papers_number_beside_ours():
    lines = markdown(rows()).splitlines()
    assert len(lines) == 2 + 5
    assert {line.count("|") for line in lines} == {7}
    assert lines[5].startswith("| + RL | 0.73 | 0.750 |")
    assert lines[6].startswith("| + RL, reward negated |  | 0.000 |")


def test_the_page_says_what_each_run_got_and_which_claim_fails():
    text = page(rows(negated=0.5), iterations=40)
    assert "1.000, 0.500" in text
    assert "lowers consistency: **no**" in text
    assert "40 scenes of unseen compositions x 3 seeds" in text


def test_filling_a_page_replaces_what_is_between_the_marks_and_nothing_else(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    for text in ("one", "two\nlines"):
        fill(path, text, MARKS)
        assert path.read_text() == f"before\n{MARKS[0]}\n{text}\n{MARKS[1]}\nafter\n"


@pytest.mark.parametrize(
    "content", ["", MARKS[0], f"{MARKS[1]} {MARKS[0]}", f"{MARKS[0]}{MARKS[1]}{MARKS[0]}"]
)
def test_a_page_without_the_marks_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "page.md"
    path.write_text(content)
    with pytest.raises(ValueError, match="once each"):
        fill(path, "text", MARKS)
    assert path.read_text() == content
