from collections import Counter

import numpy as np
import pytest

from policies.settings import Source
from policies.unified.comprehension import Comprehension
from policies.unified.files import policy_folder
from policies.unified.settings import Limits
from policies.unified.weights import load_comprehension
from pretrain.judge_clips import recoloured, true_clips
from pretrain.judge_turns import NEAR, SAME, JudgeTurns, Shown, Turn, judge_turns, near
from pretrain.recognition import recognise
from pretrain.turns import DESCRIBE, IGNORED, JUDGE
from rlnsp.world import Tracker
from rlnsp.world.events import Event, split_of


@pytest.fixture(scope="module")
def comprehension() -> Comprehension:
    place = policy_folder("world") / "comprehension"
    return load_comprehension(Source(path=str(place)), limits=Limits(clip_frames=5))


@pytest.fixture(scope="module")
def lessons() -> tuple[list[Event], np.ndarray, list[Turn]]:
    rng = np.random.default_rng(0)
    events, clips = true_clips("train", 42, rng)
    shown = [Shown(row, event) for row, event in enumerate(events)]
    return events, clips, judge_turns(clips, shown, rng)


def test_each_clip_is_described_by_what_the_tracker_recognises_in_it(lessons) -> None:
    _, clips, turns = lessons
    described = [turn for turn in turns if turn.clip >= 0]
    assert [turn.clip for turn in described] == list(range(len(clips)))
    assert {turn.question for turn in described} == {DESCRIBE}
    assert [turn.answer for turn in described] == [seen.caption for seen in recognise(clips)]


def test_a_verdict_is_the_trackers_of_the_scene_that_it_names_and_the_clip_before(lessons) -> None:
    _, clips, turns = lessons
    scene, caption, _ = JUDGE.split("\n")
    verdicts = 0
    for before, turn in zip(turns, turns[1:], strict=False):
        if turn.clip >= 0:
            continue
        context = turn.question.splitlines()[0].removeprefix(scene.format(context=""))
        assert turn.question.splitlines()[1] == caption.format(caption=before.answer)
        (verdict,) = Tracker().judge([context], clips[before.clip][None])
        assert turn.answer == ("Pass" if verdict.passed else "Fail")
        verdicts += 1
    assert verdicts == len(clips) / 2
    assert 5 < Counter(turn.answer for turn in turns)["Pass"] < 16  # of 21, about a half


@pytest.mark.parametrize("name", NEAR)
def test_a_near_scene_is_another_one(name: str, lessons, monkeypatch) -> None:
    rng = np.random.default_rng(1)
    monkeypatch.setattr("pretrain.judge_turns.NEAR", {name: NEAR[name]})
    for event in lessons[0][:14]:
        if name == "direction" and event.direction == "either":
            continue
        if name in ("direction", "swapped", "actor", "other") and not _has_one_in_training(name, event):
            continue
        other = near(event, rng)
        assert other != event
        assert split_of(other) == "train"
        assert other.kind == event.kind


def _has_one_in_training(name: str, event: Event) -> bool:
    tried = [NEAR[name](event, np.random.default_rng(seed)) for seed in range(20)]
    return any(split_of(one) == "train" for one in tried)


def test_a_batch_shows_the_clip_in_its_form_and_the_loss_is_on_the_answer_alone(
    comprehension: Comprehension, lessons
) -> None:
    _, clips, turns = lessons
    colours = [1, 2, 3, 4, 5, 0]
    rows = [
        {"question": DESCRIBE, "answer": "A.", "clip": 3, "mirrored": True, "colours": colours},
        {"question": turns[1].question, "answer": "Pass", "clip": -1, "mirrored": False, "colours": SAME},
    ]
    batch = JudgeTurns(comprehension=comprehension, clips=clips)(rows)
    shown = comprehension.images(recoloured(clips[3][:, :, ::-1], colours))["pixel_values"]
    assert np.array_equal(batch["pixel_values"].numpy(), shown.numpy())
    assert len(batch["image_grid_thw"]) == 5
    answers = [
        comprehension.tokenizer.decode(ids[labels != IGNORED])
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True)
    ]
    assert answers == ["A.<|im_end|>", "Pass<|im_end|>"]
