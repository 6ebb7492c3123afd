import asyncio
import math
import time

import numpy as np
import pytest
import torch

from rlnsp.config import ConfigError
from rlnsp.scoring import (
    BuiltReward,
    Judging,
    RewardFailed,
    build_rewards,
    check_scenes,
    explain,
    from_function,
    score,
)
from rlnsp.settings import RewardSlot
from rlnsp.types import Explanation, Sample, Scene


def sample(scene, value, **columns):
    frames = np.full((2, 4, 4, 3), value, dtype=np.uint8)
    return Sample(scene=Scene(id=scene, context=f"after {scene}", columns=columns), frames=frames, fps=8.0)


SAMPLES = [sample("a", 0), sample("a", 10), sample("b", 20), sample("b", 30)]


def brightness(samples):
    return [float(one.frames.mean()) for one in samples]


def reward(call, name="mine", **settings):
    return BuiltReward(name=name, call=call, **settings)


def test_raw_scores_come_by_name_with_weights_and_times():
    scores = score([reward(brightness), reward(lambda s: [1] * 4, name="one", weight=0.0)], SAMPLES)
    assert scores.raw["mine"].tolist() == [0, 10, 20, 30]
    assert scores.raw["one"].dtype == torch.float32
    assert scores.weights == {"mine": 1.0, "one": 0.0}
    assert set(scores.seconds) == {"mine", "one"}


def test_a_function_gets_what_trl_gives_it():
    seen = {}

    def trl(prompts, completions, **columns):
        seen.update(columns, prompts=prompts, completions=completions)
        return [0.0] * len(prompts)

    score([reward(from_function(trl))], [sample("a", 1, kind="push"), sample("b", 2)])
    assert seen["prompts"] == ["after a", "after b"]
    assert [clip.shape for clip in seen["completions"]] == [(2, 4, 4, 3)] * 2
    assert seen["kind"] == ["push", None]
    assert seen["id"] == ["a", "b"]
    assert seen["fps"] == [8.0, 8.0]


def test_a_function_without_star_columns_gets_those_it_names():
    def named(completions, kind):
        return [len(word) for word in kind]

    assert score([reward(from_function(named))], [sample("a", 1, kind="push")]).raw["mine"].tolist() == [4]


def test_a_function_of_samples_is_called_with_samples():
    assert score([reward(from_function(brightness))], SAMPLES).raw["mine"].tolist() == [0, 10, 20, 30]


def test_asynchronous_rewards_run_at_the_same_time():
    async def slow(samples):
        await asyncio.sleep(0.2)
        return brightness(samples)

    class Slow:
        async def __call__(self, samples):
            return await slow(samples)

    start = time.perf_counter()
    scores = score([reward(slow), reward(Slow(), name="class")], SAMPLES)
    assert time.perf_counter() - start < 0.35
    assert scores.raw["mine"].tolist() == scores.raw["class"].tolist() == [0, 10, 20, 30]


def test_asynchronous_rewards_work_where_an_event_loop_is_running():
    async def quick(samples):
        return brightness(samples)

    async def notebook():
        return score([reward(quick)], SAMPLES)

    assert asyncio.run(notebook()).raw["mine"].tolist() == [0, 10, 20, 30]


def test_none_leaves_the_sample_unscored():
    scores = score([reward(lambda s: [None, 1, 2, 3])], SAMPLES)
    assert math.isnan(scores.raw["mine"][0])
    assert scores.scored.tolist() == [False, True, True, True]


def test_a_reward_of_weight_zero_leaves_no_sample_unscored():
    nothing = reward(lambda s: [None] * 4, name="logged", weight=0.0)
    assert score([reward(brightness), nothing], SAMPLES, max_drop_share=0.0).scored.all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_an_error_and_not_a_score(bad):
    with pytest.raises(RewardFailed, match="'mine' failed on scene 'b': a score must be finite"):
        score([reward(lambda s: [0, 0, bad, 0])], SAMPLES)
    dropped = score([reward(lambda s: [0, 0, bad, 0], on_failure="drop")], SAMPLES)
    assert dropped.scored.tolist() == [True, True, False, True]


def test_a_wrong_number_of_values_is_neither_cut_nor_padded():
    wrong = [reward(lambda s: [0, 0, 0])]
    with pytest.raises(RewardFailed, match="'mine' failed on a call of 2 scenes: returned 3 values for 4"):
        score(wrong, SAMPLES)
    assert not score([reward(lambda s: [0, 0, 0], on_failure="drop")], SAMPLES).scored.any()


@pytest.mark.parametrize("answer", [0.5, ["good"] * 4, None])
def test_an_answer_that_is_no_list_of_numbers_stops(answer):
    with pytest.raises(RewardFailed, match="'mine'"):
        score([reward(lambda s: answer)], SAMPLES)


def fails_on_b(samples):
    if any(one.scene.id == "b" for one in samples):
        raise OSError("judge is away")
    return brightness(samples)


async def fails_later_on_b(samples):
    await asyncio.sleep(0)
    return fails_on_b(samples)


@pytest.mark.parametrize("call", [fails_on_b, fails_later_on_b])
def test_a_reward_that_raises_stops_with_its_name_the_scene_and_the_error(call):
    with pytest.raises(RewardFailed, match="'mine' failed on scene 'b': OSError: judge is away"):
        score([reward(call)], SAMPLES)


@pytest.mark.parametrize("call", [fails_on_b, fails_later_on_b])
def test_a_reward_that_raises_may_drop_the_scene_it_raises_on(call):
    scores = score([reward(call, on_failure="drop")], SAMPLES)
    assert scores.scored.tolist() == [True, True, False, False]
    assert scores.raw["mine"][:2].tolist() == [0, 10]


def test_too_many_drops_stop_and_say_which_reward_how_often_and_why():
    part = reward(fails_on_b, on_failure="drop")
    score([part], SAMPLES, max_drop_share=0.5)
    with pytest.raises(RewardFailed) as stop:
        score([part, reward(brightness, name="well")], SAMPLES, max_drop_share=0.49)
    assert "50% of 4 samples could not be scored (by reward: mine 2, well 0); at most 49% may" in str(
        stop.value
    )
    assert "The last error of mine: scene 'b': OSError: judge is away" in str(stop.value)


def test_rewards_are_built_from_a_config(plugin_file):
    slots = {
        "mine": RewardSlot(use=f"{plugin_file}:Mine", config={"target": 0.25}, weight=-1.0),
        "plain": RewardSlot(use=f"{plugin_file}:plain"),
    }
    mine, plain = build_rewards(slots)
    assert mine.call.config.target == 0.25  # type: ignore[attr-defined]
    assert mine.weight == -1.0
    assert plain.call(SAMPLES) == [0.0] * 4


def test_a_reward_can_refuse_scenes_before_anything_is_made():
    class Picky:
        def __call__(self, samples):
            return [0.0] * len(samples)

        def check_scenes(self, scenes):
            raise ValueError(f"cannot read {scenes[0].id}")

    with pytest.raises(ConfigError, match=r"rewards\.picky: cannot read a"):
        check_scenes([reward(Picky(), name="picky")], [one.scene for one in SAMPLES])
    check_scenes([reward(brightness)], [one.scene for one in SAMPLES])


def test_an_exception_in_place_of_a_value_is_that_samples_failure():
    """What asyncio.gather(..., return_exceptions=True) gives."""
    half = [0.5, OSError("lost"), 0.7, 0.8]
    scores = score([reward(lambda s: half, on_failure="drop")], SAMPLES)
    assert scores.scored.tolist() == [True, False, True, True]
    assert scores.errors == {"mine": "scene 'a': OSError: lost"}
    with pytest.raises(RewardFailed, match="'mine' failed on scene 'a': OSError: lost"):
        score([reward(lambda s: half)], SAMPLES)


class Flaky:
    """Fails a number of times, then answers."""

    def __init__(self, failures):
        self.failures, self.calls = failures, 0

    def __call__(self, samples):
        self.calls += 1
        if self.calls <= self.failures:
            raise OSError("429 Too Many Requests")
        return brightness(samples)


def test_a_call_that_fails_is_made_again_as_often_as_is_said():
    flaky = Flaky(2)
    scores = score([reward(flaky, retries=2, retry_wait_s=0.01)], SAMPLES)
    assert scores.raw["mine"].tolist() == [0, 10, 20, 30]
    assert flaky.calls == 3
    assert scores.errors == {}
    with pytest.raises(RewardFailed, match="OSError: 429"):
        score([reward(Flaky(9), retries=2, retry_wait_s=0.01)], SAMPLES[:2])


def test_the_wait_before_a_retry_is_drawn_and_doubles(monkeypatch):
    waits = []
    monkeypatch.setattr("asyncio.sleep", lambda seconds: waited(waits, seconds))
    many = reward(Flaky(9999), retries=8, retry_wait_s=1.0, on_failure="drop")
    for _ in range(40):
        score([many], SAMPLES[:2])
    for number in range(8):
        drawn = waits[number::8]
        most = min(60.0, 2.0**number)
        assert 0.75 * most < max(drawn) <= most  # of 40 draws none is above 3/4: 1e-5
        assert min(drawn) < 0.25 * most


async def waited(waits, seconds):
    waits.append(seconds)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_call_that_takes_too_long_has_failed(is_async):
    async def slow(samples):
        await asyncio.sleep(5)

    call = slow if is_async else lambda s: time.sleep(0.5)
    start = time.perf_counter()
    with pytest.raises(RewardFailed, match=r"'mine' failed on a call of 2 scenes: no answer in 0\.1 s"):
        score([reward(call, timeout_s=0.1)], SAMPLES)
    assert not score([reward(call, timeout_s=0.1, on_failure="drop")], SAMPLES).scored.any()
    assert time.perf_counter() - start < 2


def test_a_rewards_own_timeout_is_told_as_any_error():
    def gives_up(samples):
        raise TimeoutError

    with pytest.raises(RewardFailed, match="'mine' failed on a call of 2 scenes: TimeoutError: "):
        score([reward(gives_up)], SAMPLES)


class Busy:
    """Counts the calls that are under way at once."""

    def __init__(self):
        self.now, self.most, self.sizes = 0, 0, []

    def __call__(self, samples):
        self.now += 1
        self.most = max(self.most, self.now)
        self.sizes.append(len(samples))
        time.sleep(0.05)
        self.now -= 1
        return brightness(samples)


@pytest.mark.parametrize(("concurrency", "most", "sizes"), [(1, 1, [16]), (3, 3, [2] * 8)])
def test_calls_at_once_are_bounded_and_one_at_a_time_sees_all_groups(concurrency, most, sizes):
    samples = [sample(f"s{number // 2}", number) for number in range(16)]
    busy = Busy()
    scores = score([reward(busy, concurrency=concurrency)], samples)
    assert scores.raw["mine"].tolist() == list(range(16))
    assert (busy.most, busy.sizes) == (most, sizes)


def test_scores_follow_their_samples_where_a_scenes_samples_do_not_stand_together():
    turned = [SAMPLES[row] for row in (2, 0, 3, 1)]
    scores = score([reward(brightness, concurrency=2)], turned)
    assert scores.raw["mine"].tolist() == [20, 0, 30, 10]


def test_groups_are_judged_from_the_moment_that_they_are_taken():
    busy = Busy()
    judging = Judging([reward(busy)])
    judging.take(SAMPLES[:2])
    deadline = time.perf_counter() + 5
    while not busy.sizes and time.perf_counter() < deadline:
        time.sleep(0.01)
    assert busy.sizes == [2]
    judging.take(SAMPLES[2:])
    assert judging.scores().raw["mine"].tolist() == [0, 10, 20, 30]


def test_a_failure_is_told_when_the_next_groups_are_taken():
    judging = Judging([reward(fails_on_b)])

    def take_for_five_seconds():
        judging.take(SAMPLES[2:])
        for _ in range(500):
            time.sleep(0.01)
            judging.take(SAMPLES[:2])

    with pytest.raises(RewardFailed, match="judge is away"):
        take_for_five_seconds()


def test_a_reward_that_exits_fails_and_the_next_call_is_answered():
    def leaves(samples):
        raise SystemExit(3)

    leaving = reward(leaves, on_failure="drop")
    assert score([leaving], SAMPLES).errors["mine"] == "scene 'b': RuntimeError: SystemExit: 3"
    assert score([reward(brightness)], SAMPLES).scored.all()


def test_a_key_in_an_error_is_not_repeated(monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", "correct-horse-battery")

    def tells(samples):
        raise OSError("refused: key correct-horse-battery, Bearer abcdefghijklmnop")

    with pytest.raises(RewardFailed) as stop:
        score([reward(tells)], SAMPLES)
    assert "refused: key [JUDGE_API_KEY], Bearer [redacted]" in str(stop.value)


def reasons(samples):
    """Of all but black clips."""
    means = brightness(samples)
    return [Explanation(verdict=f"{mean:g}") if mean else None for mean in means]


async def reasons_later(samples):
    await asyncio.sleep(0)
    return reasons(samples)


def reasons_fail(samples):
    raise OSError("judge is away")


class Reasoned:
    def __init__(self, explain):
        self.explain = explain

    def __call__(self, samples):
        return brightness(samples)


@pytest.mark.parametrize("why", [reasons, reasons_later])
def test_reasons_come_by_sample_and_reward_from_those_that_have_them(why):
    found = explain([reward(brightness), reward(Reasoned(why), name="why")], SAMPLES)
    assert [{name: said.verdict for name, said in one.items()} for one in found] == [
        {}, {"why": "10"}, {"why": "20"}, {"why": "30"}
    ]  # fmt: skip
    assert explain([reward(Reasoned(why))], []) == []


@pytest.mark.parametrize("why", [reasons_fail, lambda samples: [None]])
def test_reasons_that_fail_stop_or_are_left_out_as_scores_are(why):
    with pytest.raises(RewardFailed, match="'mine' failed on explain: "):
        explain([reward(Reasoned(why))], SAMPLES)
    parts = [reward(Reasoned(why), on_failure="drop"), reward(Reasoned(reasons), name="why")]
    assert [list(one) for one in explain(parts, SAMPLES)] == [[], ["why"], ["why"], ["why"]]
