"""While a group is judged the next is sampled: a judge's latency is hidden, and no bit changes."""

import time

import numpy as np
import torch

from rlnsp.randomness import Randomness
from rlnsp.rollout import rollout
from rlnsp.scoring import BuiltReward, Judging
from rlnsp.settings import SamplerConfig, WindowConfig
from rlnsp.testing import ToyPolicy
from rlnsp.types import Scene

LATENCY_S, GROUPS, GROUP_SIZE = 0.2, 30, 4
SCENES = [Scene(id=f"s{i}", context=f"context {i}") for i in range(GROUPS)]
SAMPLER = SamplerConfig(num_steps=4, window=WindowConfig(size=2))


class Slow(ToyPolicy):
    """Takes longer to make a group than the judge does to judge it."""

    def decode(self, x, generator):
        time.sleep(1.3 * LATENCY_S)
        return super().decode(x, generator)


def judge(samples):
    time.sleep(LATENCY_S)
    return [float(one.frames.mean()) for one in samples]


def rolled(policy, finished=None):
    return rollout(
        policy, SCENES, SAMPLER, GROUP_SIZE, Randomness(seed=0), chunk_size=GROUP_SIZE, finished=finished
    )


def test_at_least_nine_tenths_of_a_judges_200_ms_are_hidden():
    judging = Judging([BuiltReward(name="judge", call=judge)])
    waited = 0.0

    def take(samples):
        nonlocal waited
        start = time.perf_counter()
        judging.take(samples)
        waited += time.perf_counter() - start

    rolled(Slow(ToyPolicy.Config()), take)
    start = time.perf_counter()
    scores = judging.scores()
    waited += time.perf_counter() - start
    latency = scores.seconds["judge"]
    assert latency >= GROUPS * LATENCY_S  # every group was judged by a call of its own
    assert 1 - waited / latency >= 0.9


def test_handing_groups_over_changes_no_bit():
    judging = Judging([BuiltReward(name="judge", call=lambda s: [float(one.frames.mean()) for one in s])])
    alone, watched = (
        rolled(ToyPolicy(ToyPolicy.Config())),
        rolled(ToyPolicy(ToyPolicy.Config()), judging.take),
    )
    for name in ("x", "x_next", "mean", "latents"):
        assert torch.equal(getattr(alone, name), getattr(watched, name))
    frames, others = ([one.frames for one in made.samples] for made in (alone, watched))
    assert np.array_equal(frames, others)
    expected = torch.tensor([float(one.mean()) for one in frames])
    assert torch.equal(judging.scores().raw["judge"], expected)


def test_whole_groups_are_handed_over_in_order_as_soon_as_they_are_done():
    for chunk_size in (1, 3, 4, 6, 100):
        made: list[int] = []
        handed: list[tuple[int, list[str]]] = []

        class Counting(ToyPolicy):
            def decode(self, x, generator, made=made):
                made.append(len(x))
                return super().decode(x, generator)

        def take(samples, made=made, handed=handed):
            handed.append((sum(made), [one.scene.id for one in samples]))

        policy = Counting(ToyPolicy.Config())
        rollout(policy, SCENES[:3], SAMPLER, 4, Randomness(seed=0), chunk_size=chunk_size, finished=take)
        ids = [id for _, part in handed for id in part]
        assert ids == [scene.id for scene in SCENES[:3] for _ in range(4)]
        done = 0
        for decoded, part in handed:
            done += len(part)
            assert decoded // 4 * 4 == done  # nothing that is whole is kept back
