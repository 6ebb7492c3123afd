import math
import re

import openai
import pytest

from rewards.nsp_reward.prompts import PACKAGED
from rewards.nsp_reward.reward import NSPReward
from rlnsp.chat import FramesConfig
from rlnsp.scoring import BuiltReward, score
from rlnsp.testing import check_reward
from rlnsp.types import Unscored
from tests.chat_server import speaking
from tests.rewards.nsp_reward.asking import reward, sample


def level(text):
    """Of the clip that a question about its caption is about."""
    (found,) = re.findall(r"brightness (\d+)", text)
    return int(found)


def judge(text, images):
    """Captions a clip by its brightness; what is brighter than 100 passes, 13 is a riddle."""
    if "Which of the two" in text:
        first, second = images[0].mean(), images[-1].mean()
        return "First" if first > second else "Second"  # of equal ones, always the second
    if images:
        return "" if images[0].mean() == 7 else f" A thing of brightness {images[0].mean():.0f}.\n"
    if level(text) == 13:
        return "Well, who knows?"
    if "Yes or No" in text:
        return "Yes" if "free of" in text or level(text) > 100 else "No"
    p = level(text) / 255
    return ("Pass" if p > 0.39 else "Fail"), [
        [("Pass", math.log(p + 1e-9)), ("Fail", math.log(1 - p + 1e-9))]
    ]


@pytest.fixture
def server():
    with speaking(judge) as one:
        yield one


def test_binary_is_pass_or_fail(server):
    assert reward(server)([sample(200), sample(50), sample(101, "b")]) == [1.0, 0.0, 1.0]


def test_the_judge_decides_on_the_caption_and_the_preceding_scene_alone(server):
    reward(server)([sample(200, "b")])
    asked, decided = [request["messages"][0]["content"] for request in server.asked]
    assert [part["type"] for part in asked] == ["image_url"] * 3 + ["text"]  # 9 frames of 8 fps, at 2
    assert asked[-1]["text"] == (PACKAGED / "paper" / "caption.txt").read_text().strip()
    (text,) = [part["text"] for part in decided]
    assert "Preceding scene: after b\nNext scene: A thing of brightness 200.\n" in text


def test_soft_is_the_probability_of_passing(server):
    found = reward(server, "soft")([sample(200), sample(51), sample(0)])
    assert found == pytest.approx([200 / 255, 0.2, 0.0], abs=1e-6)


def test_checklist_is_the_share_of_questions_answered_with_yes(server):
    judged = reward(server, "checklist")
    assert judged([sample(200), sample(50)]) == [1.0, pytest.approx(1 / 6)]
    (explained,) = judged.explain([sample(50)])
    assert explained.passed is False
    assert [name for name, holds in explained.checks.items() if holds] == ["nothing else"]


def test_pairwise_is_the_win_rate_in_the_group_with_either_order_asked(server):
    group = [sample(10), sample(30), sample(30), sample(90), sample(5, "b"), sample(6, "b")]
    found = reward(server, "pairwise")(group)
    # Of the two equal clips each wins once, when it is the second: a liking for a place cancels out.
    assert found == pytest.approx([0, (1 + 0.5) / 3, (1 + 0.5) / 3, 1, 0, 1])
    # What is shown is asked once: of three brightnesses either order, of the equal ones one; of b two.
    assert server.requests == 3 * 2 + 1 + 2


def test_in_pairwise_mode_a_scene_s_only_sample_is_judged_by_itself(server):
    assert reward(server, "pairwise")([sample(200), sample(50, "b")]) == [1.0, 0.0]


@pytest.mark.parametrize("mode", ["binary", "soft", "checklist"])
def test_what_cannot_be_read_is_unscored_and_costs_no_other_sample(server, mode):
    good, unread, silent = reward(server, mode)([sample(200), sample(13), sample(7)])
    assert isinstance(good, float)
    assert isinstance(unread, Unscored)
    assert "who knows" in str(unread)
    assert isinstance(silent, Unscored)
    assert "says nothing of the clip" in str(silent)


def test_it_is_counted_and_shown_and_stops_no_run(server):
    built = BuiltReward(name="judge", call=reward(server), on_failure="raise")
    found = score([built], [sample(200), sample(13)])
    assert found.scored.tolist() == [True, False]
    assert "scene 'a': the judge says neither Pass nor Fail: 'Well, who knows?'" in found.errors["judge"]


def test_a_comparison_that_cannot_be_read_does_not_count():
    def shy(text, images):
        levels = {int(image.mean()) for image in images}
        return "I like both" if 13 in levels and 200 in levels else judge(text, images)

    with speaking(shy) as server:
        found = reward(server, "pairwise")([sample(13), sample(50), sample(200)])
        assert found == [0.0, 0.5, 1.0]
        both = reward(server, "pairwise")([sample(13), sample(200)])
    assert all(isinstance(one, Unscored) and "I like both" in str(one) for one in both)


def test_a_server_that_fails_is_no_verdict(server):
    judged, paired = reward(server), reward(server, "pairwise")
    server.fault = "500"
    for one in (judged, paired):
        found = one([sample(200), sample(50)])
        assert all(isinstance(value, openai.InternalServerError) for value in found)
    with pytest.raises(openai.InternalServerError):
        judged.explain([sample(200)])


def test_a_clip_without_frames_costs_no_other(server):
    empty, fine = reward(server)([sample(200, frames=0), sample(200)])
    assert isinstance(empty, ValueError)
    assert "a clip must be uint8 of shape (F, H, W, 3)" in str(empty)
    assert fine == 1.0
    empty, *others = reward(server, "pairwise")([sample(9, frames=0), sample(50), sample(200)])
    assert isinstance(empty, ValueError)
    assert others == [0.0, 1.0]


def test_frames_are_shown_as_the_settings_say(server):
    settings = FramesConfig(fps=8.0, max_frames=5, max_edge=2)
    reward(server, frames=settings)([sample(200)])
    images = [part for part in server.asked[0]["messages"][0]["content"] if part["type"] == "image_url"]
    assert len(images) == 5


def test_the_reward_says_why(server):
    held, failed, unread = reward(server).explain([sample(200), sample(50), sample(13)])
    assert (held.verdict, held.passed, held.caption) == ("consistent", True, "A thing of brightness 200.")
    assert (failed.verdict, failed.passed) == ("not consistent", False)
    assert (unread.passed, unread.caption) == (None, None)
    assert "no verdict: the judge says neither Pass nor Fail" in unread.verdict


@pytest.mark.parametrize("mode", ["soft", "pairwise"])
def test_the_reward_keeps_to_the_seam(server, mode):
    check_reward(reward(server, mode), [sample(200), sample(50), sample(101, "b"), sample(90, "b")])


def test_any_context_may_be_judged_by_a_model(server):
    reward(server).check_scenes([sample(1).scene])


def test_a_local_judge_needs_a_model():
    with pytest.raises(ValueError, match=r"needs transformers\.model"):
        NSPReward.Config(judge="transformers")
