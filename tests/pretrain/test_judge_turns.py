import json
import re
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from policies.settings import Source
from policies.unified.comprehension import Comprehension
from policies.unified.files import policy_folder
from policies.unified.settings import Limits
from policies.unified.weights import load_comprehension
from pretrain import judge_turns
from pretrain.judge_clips import faulty, true_clips
from pretrain.judge_turns import (
    NEAR,
    THOUGHT,
    JudgeTurns,
    Shown,
    Turn,
    description,
    near,
    read_shown,
    shown,
    thought,
    verdict,
)
from pretrain.recognition import Recognised
from pretrain.turns import DESCRIBE, IGNORED, JUDGE
from rewards.nsp_reward.verdicts import PASS_FAIL, probability
from rlnsp.chat import Answer, Token
from rlnsp.chat import verdict as read
from rlnsp.world import Tracker, language
from rlnsp.world.events import Event, split_of


@pytest.fixture(scope="module")
def comprehension() -> Comprehension:
    place = policy_folder("world") / "comprehension"
    return load_comprehension(Source(path=str(place)), limits=Limits(clip_frames=5))


@pytest.fixture(scope="module")
def known() -> tuple[np.ndarray, list[Shown]]:
    rng = np.random.default_rng(0)
    events, clips = true_clips("train", 42, rng)
    clips = np.concatenate([clips, faulty(clips[:14], rng)])
    return clips, shown(clips, events + events[:14])


def test_each_clip_is_shown_and_described_by_what_the_tracker_recognises_in_it(known) -> None:
    clips, all_shown = known
    assert [one.clip for one in all_shown] == list(range(len(clips)))
    turn = description(all_shown[3], clips)
    assert (turn.question, turn.answer) == (DESCRIBE, all_shown[3].seen.caption)
    assert turn.frames is not None
    assert np.array_equal(turn.frames, clips[3])
    kept = json.loads(json.dumps([asdict(one) for one in all_shown]))
    assert [read_shown(entry) for entry in kept] == all_shown


def test_a_verdict_is_the_trackers_of_the_scene_that_it_names_and_the_clip(known) -> None:
    clips, all_shown = known
    rng = np.random.default_rng(0)
    scene, caption, _ = JUDGE.split("\n")
    passes = []
    for one in all_shown:
        turn = verdict(one, rng)
        asked, said, _ = turn.question.splitlines()
        context = asked.removeprefix(scene.format(context=""))
        assert said == caption.format(caption=one.seen.caption)
        (told,) = Tracker().judge([context], clips[one.clip][None])
        found = THOUGHT.fullmatch(turn.answer)
        assert found
        assert (found[2] == "Pass") == told.passed == ("-" not in found[1] and one.seen.holds)
        passes.append(told.passed)
    assert 8 < sum(passes) < 28  # 40% of the true ones


PUSH = Event(kind="push", actor="red", other="blue", direction="right", speed="slow", bystander="green")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": "fall"}, "event: fall push-;"),
        ({"actor": "cyan"}, "actor: cyan red-;"),
        ({"other": "cyan"}, "other: cyan blue-;"),
        ({"direction": "left"}, "side: left right-;"),
        ({"speed": "fast"}, "speed: fast slow-;"),
        ({"bystander": None}, "star: none green left-;"),
        ({"bystander_side": "right"}, "star: green right green left-;"),
    ],
)
def test_each_fact_is_compared_for_itself(change: dict[str, Any], told: str) -> None:
    said = thought(replace(PUSH, **change), Recognised(event=PUSH))
    assert told in said
    assert said.count("+;") == 5
    assert said.count("-;") == 1


def test_either_side_agrees_with_both_and_nothing_with_no_event() -> None:
    rise = replace(PUSH, kind="rise")
    assert "side: either right+;" in thought(replace(rise, direction="either"), Recognised(event=rise))
    assert "+" not in thought(PUSH, Recognised(event=None))


def test_whoever_reads_a_verdict_looks_past_the_thought() -> None:
    said = thought(PUSH, Recognised(event=PUSH)) + "Fail"
    told = {"Fail": ("Fail", "Pass")}
    tokens = tuple(
        Token(text=text, likeliest=tuple(zip(told.get(text, (text,)), (-0.1, -2.4), strict=False)))
        for text in re.findall(r" ?\w+|\W", said)
    )
    assert read(Answer(text=said), PASS_FAIL) is False
    assert probability(Answer(text=said, tokens=tokens), PASS_FAIL) == pytest.approx(0.09, abs=0.01)


@pytest.mark.parametrize("name", NEAR)
def test_a_near_scene_is_another_one(name: str, known, monkeypatch) -> None:
    rng = np.random.default_rng(1)
    monkeypatch.setattr(judge_turns, "NEAR", {name: NEAR[name]})
    for event in [one.asked for one in known[1][:14]]:
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


def test_a_batch_shows_the_clips_and_the_loss_is_on_the_answers_alone(
    comprehension: Comprehension, known
) -> None:
    clips, _ = known
    question = JUDGE.format(
        context=language.describe(known[1][0].asked, np.random.default_rng(0)), caption="A."
    )
    lessons = {
        "describe": lambda rng: Turn(DESCRIBE, "A.", clips[rng.integers(len(clips))]),
        "judge": lambda rng: Turn(question, "+; Fail"),
    }
    rows = [{"lesson": "describe", "seed": 4}, {"lesson": "judge", "seed": 5}]
    batch = JudgeTurns(comprehension=comprehension, lessons=lessons)(rows)
    row = np.random.default_rng(4).integers(len(clips))
    pixels = comprehension.images(clips[row])["pixel_values"]
    assert np.array_equal(batch["pixel_values"].numpy(), pixels.numpy())
    answers = [
        comprehension.tokenizer.decode(ids[labels != IGNORED])
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True)
    ]
    assert answers == ["A.<|im_end|>", "+; Fail<|im_end|>"]
