import numpy as np
import pytest

from policies.settings import Source
from policies.unified.files import policy_folder
from policies.unified.settings import Limits
from policies.unified.weights import load_comprehension
from pretrain import judge_answers
from pretrain.judge_answers import answered, own_verdicts
from pretrain.judge_clips import faulty, true_clips
from pretrain.judge_turns import shown
from pretrain.recognition import follows
from pretrain.turns import DESCRIBE, JUDGE
from rewards.nsp_reward.local import LocalChat, LocalConfig
from rlnsp.chat import Answer, Question

SHIPPED = policy_folder("world") / "comprehension"


def test_a_judge_in_training_answers_what_it_will_as_a_reward() -> None:
    _, clips = true_clips("train", 3, np.random.default_rng(0))
    comprehension = load_comprehension(Source(path=str(SHIPPED)), limits=Limits(clip_frames=5))
    chat = LocalChat(LocalConfig(model=str(SHIPPED), dtype="fp32", device="cpu"))
    asked = [(DESCRIBE, clip) for clip in clips]
    questions = [Question(content=[clip[::2], DESCRIBE], max_tokens=30) for clip in clips]
    said = chat.answers(questions)
    assert answered(comprehension, asked, 30) == [one.text for one in said if isinstance(one, Answer)]
    contexts = ("A red ball rolls.", "On the floor a red ball is heading slowly to the left, at a blue box.")
    judged = [JUDGE.format(context=context, caption="It stops.") for context in contexts]
    told = chat.answers([Question(content=[one], max_tokens=8) for one in judged])
    together = answered(comprehension, [(one, None) for one in judged], 8)
    assert together == [one.text for one in told if isinstance(one, Answer)]


def test_its_own_captions_and_thoughts_stay_and_the_verdict_is_the_trackers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    events, clips = true_clips("train", 20, rng)
    clips = np.concatenate([clips, faulty(clips, rng)])
    known = shown(clips, events * 2)
    asked = []

    def says(comprehension, questions, max_tokens: int) -> list[str]:
        if questions[0][0] == DESCRIBE:
            return [f"Caption {row}." for row in range(len(questions))]
        asked.extend(question for question, _ in questions)
        return ["A ball." if row == 3 else "event: push push+;\nPass" for row in range(len(questions))]

    monkeypatch.setattr(judge_answers, "answered", says)
    turns = own_verdicts(None, known, clips, 50, seed=2)  # pyright: ignore[reportArgumentType]
    assert [turn.question for turn in turns] == asked[:3] + asked[4:]
    assert {turn.answer for turn in turns} == {"event: push push+;\nPass", "event: push push+;\nFail"}
    told = [known[row % 40] for row in range(50) if row != 3]
    passes = [follows(one.asked, one.seen) for one in told]
    assert [turn.answer.endswith("Pass") for turn in turns] == passes
    assert "Caption 7." in asked[7]
