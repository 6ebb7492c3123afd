import numpy as np
import pytest

from rewards.unified_reward import AXES, UnifiedReward
from rlnsp.chat import ChatConfig
from rlnsp.settings import ConfigError
from rlnsp.testing import check_reward
from rlnsp.types import Sample, Scene, Unscored
from tests.chat_server import speaking

POINT = "Alignment Score (1-5): {}\nPhysics Score (1-5): {}\nStyle Score (1-5): {}"
PAIR = "\n".join(f"{axis} Score:\n Video 1: {{}}\n Video 2: {{}}\n" for axis in AXES["pair"])


def config(server, **settings):
    chat = ChatConfig(base_urls=[server.url], retries=0)
    return UnifiedReward.Config(server=chat, **settings)


def sample(level, scene="a", length=4):
    frames = np.full((length, 8, 8, 3), level, np.uint8)
    about = Scene(id=scene, context=f"scene {scene}", caption="It stops.")
    return Sample(scene=about, frames=frames, fps=8.0)


def brighter(text, images):
    """Rates a clip by its brightness, and of two likes the brighter one in every respect."""
    if "Video 2" not in text:
        rating = 1 + 4 * images[0].mean() / 255
        return POINT.format(rating, rating, rating)
    half = len(images) // 2
    first, second = images[0].mean(), images[half].mean()
    share = 0.5 if first == second else 0.7 if first > second else 0.3
    return PAIR.format(*[share, round(1 - share, 1)] * 3)


def test_a_rating_is_the_weighed_mean_from_one_to_five_put_in_zero_to_one():
    with speaking(lambda text, images: POINT.format(5, 2.0, "1.5")) as server:
        assert UnifiedReward(config(server))([sample(9)]) == [pytest.approx((8.5 / 3 - 1) / 4)]
        weighed = UnifiedReward(config(server, weights=(3.0, 1.0, 0.0)))
        assert weighed([sample(9)]) == [pytest.approx((17 / 4 - 1) / 4)]


def test_in_a_group_each_clip_has_the_share_of_comparisons_that_it_wins():
    with speaking(brighter) as server:
        reward = UnifiedReward(config(server, mode="pair"))
        levels = [10, 200, 100, 100]
        # Against the others: 0 of 3; 3 of 3; one win, one loss and a tie.
        expected = [0, 1, 0.5, 0.5]
        assert reward([sample(level) for level in levels]) == pytest.approx(expected)
        assert server.requests == 4  # of 6: the two that are alike ask the same of 10 twice, and of 200
        mixed = [sample(10), sample(50, "b"), sample(200), sample(5, "b"), sample(51, "c")]
        assert reward(mixed) == pytest.approx([0, 1, 1, 0, 0.2])  # the last is alone, and rated


def test_a_liking_for_one_place_cancels_out_in_both_orders():
    def first(text, images):
        return PAIR.format(*[0.9, 0.1] * 3)

    with speaking(first) as server:
        samples = [sample(10), sample(200)]
        assert UnifiedReward(config(server, mode="pair"))(samples) in ([0, 1], [1, 0])
        assert UnifiedReward(config(server, mode="pair", both_orders=True))(samples) == [0.5, 0.5]


def test_it_is_shown_as_many_frames_as_published_and_the_text():
    with speaking(brighter) as server:
        long = [sample(10, length=40), sample(200, length=40)]
        UnifiedReward(config(server))(long[:1])
        UnifiedReward(config(server, mode="pair", text="caption"))(long)
    contents = [asked["messages"][0]["content"] for asked in server.asked]
    assert [[part["type"] for part in content] for content in contents] == [
        ["image_url"] * 16 + ["text"],
        ["image_url"] * 16 + ["text"],
    ]
    assert "[scene a]" in contents[0][-1]["text"]
    assert "[It stops.]" in contents[1][-1]["text"]


def test_the_seam_is_kept_and_an_outage_gives_no_score():
    with speaking(brighter) as server:
        samples = [sample(level, scene) for level, scene in ((10, "a"), (90, "a"), (40, "b"), (200, "b"))]
        check_reward(UnifiedReward(config(server, mode="pair")), samples)
        check_reward(UnifiedReward(config(server)), samples)


@pytest.mark.parametrize(
    "said",
    [
        "I like it.",
        POINT.format(5, 4, "good"),
        POINT.format(5, 4, 6),
        POINT.format(0, 4, 4),
        POINT.format(3, 3, 3) + "\n" + POINT.format(4, 4, 4),
    ],
)
def test_what_is_no_rating_is_unscored(said):
    with speaking(lambda text, images: said) as server:
        (found,) = UnifiedReward(config(server))([sample(9)])
    assert isinstance(found, Unscored)


TOO_MUCH, OUTSIDE = PAIR.format(0.7, 0.7, *[0.5] * 4), PAIR.format(*[2, 0] * 3)


@pytest.mark.parametrize("said", ["Video 1.", TOO_MUCH, OUTSIDE])
def test_a_comparison_that_cannot_be_read_does_not_count(said):
    def speak(text, images):
        levels = {images[0].mean(), images[-1].mean()}
        return said if levels == {10, 200} else brighter(text, images)

    with speaking(speak) as server:
        reward = UnifiedReward(config(server, mode="pair"))
        assert reward([sample(10), sample(200), sample(100)]) == pytest.approx([0, 1, 0.5])
        assert all(isinstance(one, Unscored) for one in reward([sample(10), sample(200)]))


def test_where_a_comparison_could_not_be_asked_both_its_clips_have_no_score():
    with speaking(brighter) as server:
        reward = UnifiedReward(config(server, mode="pair"))
        server.fault, server.failures = "500", 1
        found = reward([sample(10), sample(200), sample(100)])
    failed = [one for one in found if isinstance(one, Exception)]
    assert len(failed) == 2
    assert not any(isinstance(one, Unscored) for one in failed)


def test_a_server_that_is_away_is_an_error_with_the_commands():
    chat = ChatConfig(base_urls=["http://127.0.0.1:9/v1"], retries=0)
    with pytest.raises(ConfigError, match="no server answers at .*hf download CodeGoat24/.*vllm serve"):
        UnifiedReward(UnifiedReward.Config(server=chat))


def test_prompts_can_be_replaced_and_are_kept_with_the_run(tmp_path):
    with speaking(brighter) as server:
        own = tmp_path / "own.txt"
        own.write_text("Rate this: {caption}")
        reward = UnifiedReward(config(server, point_prompt=str(own)))
        reward.keep_in(tmp_path / "run")
        reward([sample(9)])
        assert server.asked[-1]["messages"][0]["content"][-1]["text"] == "Rate this: scene a"
        again = UnifiedReward(config(server, point_prompt=str(own)))
        again.keep_in(tmp_path / "run")
        again([sample(9)])
        assert len(server.asked) == 1  # its answer is in the run's folder
        with pytest.raises(ValueError, match=r"mode point is not .*point\.txt, which this run"):
            UnifiedReward(config(server)).keep_in(tmp_path / "run")
        own.write_text("Rate this.")
        with pytest.raises(ConfigError, match=r"\{caption\} must be in it once"):
            UnifiedReward(config(server, point_prompt=str(own)))


def test_a_scene_without_the_text_is_refused():
    with speaking(brighter) as server, pytest.raises(ValueError, match="scene 'a' has no caption"):
        UnifiedReward(config(server, text="caption")).check_scenes([Scene(id="a", context="A ball.")])


@pytest.mark.parametrize("weights", [(0.0, 0.0, 0.0), (1.0, -1.0, 1.0)])
def test_weights_must_be_positive(weights):
    with pytest.raises(ValueError, match="weights must be 0 or more, and one above 0"):
        UnifiedReward.Config(weights=weights)
