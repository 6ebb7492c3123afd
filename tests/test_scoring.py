import asyncio
import math
import time

import numpy as np
import pytest
import torch

from rlnsp.config import ConfigError
from rlnsp.scoring import (
    BuiltReward,
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
    with pytest.raises(RewardFailed, match="'mine', scene 'b': a score must be finite"):
        score([reward(lambda s: [0, 0, bad, 0])], SAMPLES)
    dropped = score([reward(lambda s: [0, 0, bad, 0], on_failure="drop")], SAMPLES)
    assert dropped.scored.tolist() == [True, True, False, True]


@pytest.mark.parametrize("on_failure", ["raise", "drop"])
def test_a_wrong_number_of_values_always_stops(on_failure):
    with pytest.raises(RewardFailed, match="'mine' returned 3 values for 4 samples"):
        score([reward(lambda s: [0, 0, 0], on_failure=on_failure)], SAMPLES)


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


def test_too_many_drops_stop():
    part = reward(fails_on_b, on_failure="drop")
    score([part], SAMPLES, max_drop_share=0.5)
    with pytest.raises(RewardFailed, match=r"50% of 4 samples could not be scored \(by reward: mine 2\)"):
        score([part], SAMPLES, max_drop_share=0.49)


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
