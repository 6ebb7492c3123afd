import math
from dataclasses import replace

import numpy as np
import pytest

from rlnsp.data import true_clips
from rlnsp.evaluate import DISTANCE, bootstrap_mean, distances_to_future, evaluate, paired_difference
from rlnsp.manifest import write_clip
from rlnsp.scoring import BuiltReward
from rlnsp.settings import EvaluationConfig, SamplerConfig
from rlnsp.testing import ToyPolicy
from rlnsp.types import Sample, Scene
from rlnsp.world import futures, scenes

SCENES = [Scene(id=f"s{i}", context=f"context {i}") for i in range(5)]


def brightness(samples):
    return [float(one.frames.mean()) for one in samples]


def run(call=brightness, chunk_size=5, **settings):
    config = EvaluationConfig(num_scenes=len(SCENES), bootstrap=200, **settings)
    rewards, policy = [BuiltReward(name="bright", call=call)], ToyPolicy(ToyPolicy.Config())
    return evaluate(policy, SCENES, rewards, SamplerConfig(), config, chunk_size=chunk_size, keep=2)


def test_an_evaluation_says_how_it_was_made():
    evaluation = run(num_seeds=2, seed=5, num_steps=3, guidance_scale=2.0)
    assert evaluation.how == {
        "sampler": "ode", "num_steps": 3, "guidance_scale": 2.0, "seeds": [5, 6], "weights": "live"
    }  # fmt: skip
    assert run().how["num_steps"] == SamplerConfig().num_steps


def test_scores_are_means_over_seeds():
    both, first, second = run(num_seeds=2), run(seed=0), run(seed=1)
    expected = (np.array(first.scores["bright"]) + np.array(second.scores["bright"])) / 2
    np.testing.assert_allclose(both.scores["bright"], expected)
    assert first.scores["bright"] != second.scores["bright"]


def test_chunks_change_no_score():
    small, whole = (run(num_seeds=2, chunk_size=chunk_size) for chunk_size in (2, 5))
    np.testing.assert_allclose(small.scores["bright"], whole.scores["bright"], rtol=1e-3)


def test_the_same_seed_gives_the_same_clips():
    one, other = run(), run()
    assert one.scores["bright"] == other.scores["bright"]
    assert len(one.samples) == 2
    assert np.array_equal(one.samples[1].frames, other.samples[1].frames)


def test_what_could_not_be_scored_is_left_out_and_counted_out():
    evaluation = run(lambda samples: [None, 2.0, 3.0, None, 4.0])
    interval = evaluation.interval("bright")
    assert interval.n == 3
    assert interval.mean == 3


def test_the_interval_is_that_of_the_mean():
    # The mean of n numbers of variance v has a 95% interval of half-width 1.96 sqrt(v / n).
    values = np.random.default_rng(0).normal(size=400)
    interval = bootstrap_mean(values, 4000)
    assert interval.mean == pytest.approx(values.mean())
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.06)
    assert interval == bootstrap_mean(values, 4000)


def test_the_interval_of_nothing_is_nan():
    assert math.isnan(bootstrap_mean(np.array([np.nan]), 10).mean)


def test_a_paired_difference_is_narrower_than_the_difference_of_two_intervals():
    before = run()
    raised = {**before.scores, "bright": [value + 1 for value in before.scores["bright"]]}
    change = paired_difference(before, replace(before, scores=raised), "bright")
    assert (change.mean, change.low, change.high) == pytest.approx((1, 1, 1))
    with pytest.raises(ValueError, match="same scenes"):
        paired_difference(before, replace(before, scene_ids=["other"]), "bright")


def test_a_true_future_has_distance_zero_and_its_negative_does_not():
    scene = scenes("heldout", 1, 0)[0]
    true = futures(scene.context, 1, 0)[0]
    clips = [Sample(scene=scene, frames=frames, fps=8.0) for frames in (true, 255 - true)]
    same, negative = distances_to_future(clips)
    assert same == 0
    assert negative > 0.1


def test_a_scenes_own_video_is_its_true_future(tmp_path):
    clip = np.full((3, 16, 16, 3), 100, dtype=np.uint8)
    write_clip(tmp_path / "clip.mp4", clip, 8.0)
    scene = Scene(id="a", context="not of the world", video=tmp_path / "clip.mp4")
    brighter, shorter = (Sample(scene=scene, frames=frames, fps=8.0) for frames in (clip + 51, clip[:2]))
    assert distances_to_future([brighter, brighter]) == pytest.approx([0.2, 0.2], abs=0.01)
    assert math.isnan(distances_to_future([shorter])[0])


def test_futures_of_another_size_than_the_clips_are_not_even_drawn(monkeypatch):
    monkeypatch.setattr("rlnsp.data.futures", lambda *asked, **settings: pytest.fail("drawn in vain"))
    scene = scenes("heldout", 1, 0)[0]
    small = Sample(scene=scene, frames=np.zeros((2, 16, 16, 3), np.uint8), fps=8.0)
    assert math.isnan(distances_to_future([small])[0])
    assert true_clips(scene, 1, small.frames.shape) is None


def test_where_no_future_is_known_there_is_no_distance():
    assert run().interval(DISTANCE).n == 0
