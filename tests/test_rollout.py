from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rlnsp.maths.steps import step
from rlnsp.randomness import Randomness
from rlnsp.rollout import rollout, sample, sample_each, transition
from rlnsp.settings import SamplerConfig, WindowConfig
from rlnsp.testing import ToyPolicy
from rlnsp.types import Scene
from rlnsp.window import trained_steps

SCENES = [Scene(id=f"s{i}", context=f"context {i}") for i in range(3)]
SAMPLER = SamplerConfig(num_steps=6, window=WindowConfig(start=2, size=2))


class Counting(ToyPolicy):
    """Counts the rows that velocity was asked for."""

    rows = 0

    def velocity(self, x, sigma, condition, guidance_scale=1.0):
        self.rows += len(x)
        return super().velocity(x, sigma, condition, guidance_scale)


def toy(kind: Any = ToyPolicy, trained: bool = True) -> Any:
    policy = kind(ToyPolicy.Config())
    if trained:
        for _, value in policy.named_trainable():
            value.data.add_(0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    return policy


def roll(policy, sampler=SAMPLER, group_size=4, **options):
    return rollout(policy, SCENES, sampler, group_size, Randomness(seed=0), **{"chunk_size": 100, **options})


def test_only_steps_in_the_window_are_stochastic_and_the_others_follow_the_ode():
    policy = toy()
    trajectory = roll(policy)
    sigmas = policy.sigmas(6)
    assert torch.equal(trajectory.sigma, sigmas[2:4])
    assert torch.equal(trajectory.sigma_next, sigmas[3:5])
    condition = trajectory.condition.take(trajectory.group)
    with torch.no_grad():
        x = trajectory.x_next[:, -1]
        for number in (4, 5):
            s, s_next = (sigmas[i].expand(len(x)) for i in (number, number + 1))
            x, _ = step("ode", x, policy.velocity(x, s, condition), s, s_next, 0.7)
    torch.testing.assert_close(trajectory.latents, x)


def test_a_window_step_starts_where_the_one_before_ended():
    trajectory = roll(toy())
    assert torch.equal(trajectory.x_next[:, 0], trajectory.x[:, 1])


def test_recorded_noise_is_standard_normal_in_units_of_the_steps_std():
    trajectory = roll(toy(), group_size=64)
    for number in range(2):
        s, s_next = (t[number : number + 1] for t in (trajectory.sigma, trajectory.sigma_next))
        _, std = step("cps", trajectory.x[:1, 0], trajectory.x[:1, 0], s, s_next, 0.7)
        noise = (trajectory.x_next[:, number] - trajectory.mean[:, number]) / std
        n = noise.numel()
        assert abs(float(noise.mean())) < 5 / n**0.5
        assert abs(float(noise.var()) - 1) < 5 * (2 / n) ** 0.5


def test_scoring_a_recorded_step_gives_the_mean_it_was_drawn_from():
    policy = toy()
    trajectory = roll(policy)
    condition = trajectory.condition.take(trajectory.group)
    for number in range(2):
        s, s_next = (t[number].expand(12) for t in (trajectory.sigma, trajectory.sigma_next))
        mean, _ = transition(policy, trajectory.x[:, number], s, s_next, condition, SAMPLER, 1.0)
        torch.testing.assert_close(mean, trajectory.mean[:, number])


@pytest.mark.parametrize("start", [0, 2])
def test_sharing_the_prefix_changes_no_number(start):
    sampler = replace(SAMPLER, window=WindowConfig(start=start, size=2))
    shared, plain = (roll(toy(), sampler, share_prefix=on) for on in (True, False))
    for name in ("x", "x_next", "mean", "latents"):
        torch.testing.assert_close(getattr(shared, name), getattr(plain, name), rtol=0, atol=1e-5)


def test_sharing_the_prefix_asks_for_a_row_a_scene_up_to_the_first_noise():
    shared, plain = toy(Counting), toy(Counting)
    roll(shared)
    roll(plain, share_prefix=False)
    assert plain.rows == 6 * 12
    assert shared.rows == 3 * 3 + 3 * 12


def test_different_noise_in_a_group_is_never_shared():
    policy = toy(Counting)
    trajectory = roll(policy, replace(SAMPLER, same_noise=False))
    assert policy.rows == 6 * 12
    assert not torch.equal(trajectory.x[0, 0], trajectory.x[1, 0])


def test_the_same_noise_in_a_group_means_equal_latents_before_the_window_and_different_ones_after():
    trajectory = roll(toy())
    first = trajectory.x[:, 0].unflatten(0, (3, 4))
    assert torch.equal(first, first[:, :1].expand_as(first))
    assert not torch.equal(first[0], first[1])
    assert len({tuple(row.flatten().tolist()) for row in trajectory.x_next[:, 0]}) == 12


@pytest.mark.parametrize("chunk_size", [1, 5])
def test_chunks_change_no_number(chunk_size):
    whole, parts = roll(toy()), roll(toy(), chunk_size=chunk_size)
    for name in ("x", "x_next", "mean", "latents"):
        torch.testing.assert_close(getattr(whole, name), getattr(parts, name), rtol=0, atol=1e-5)


def test_samples_are_groups_by_scene_in_order():
    trajectory = roll(toy())
    assert [one.scene.id for one in trajectory.samples] == [s.id for s in SCENES for _ in range(4)]
    assert trajectory.group.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    frames = toy().decode(trajectory.latents, torch.Generator()).frames
    assert np.array_equal(np.stack([one.frames for one in trajectory.samples]), frames)


def test_the_deterministic_sampler_ends_at_the_datas_spread():
    # Of Gaussian data the velocity is known, so that many small steps carry N(0, 1) to N(0, 0.5^2).
    policy = toy(trained=False)
    scenes = [Scene(id=str(i), context="same") for i in range(200)]
    clips = sample(policy, scenes, SAMPLER, torch.Generator().manual_seed(0), chunk_size=64, num_steps=100)
    logits = np.log(clips.frames / 255) - np.log(1 - clips.frames / 255)
    assert abs(logits.std() - 0.5) < 0.02


def test_a_scenes_clip_does_not_depend_on_chunks_or_on_the_scenes_after_it():
    policy = toy()

    def clips(scenes, chunk_size):
        return sample(policy, scenes, SAMPLER, torch.Generator().manual_seed(0), chunk_size=chunk_size).frames

    whole = clips(SCENES, 3)
    assert np.abs(whole.astype(int) - clips(SCENES, 1)).max() <= 1
    assert np.abs(whole[:2].astype(int) - clips(SCENES[:2], 3)).max() <= 1


def test_guidance_reaches_rollouts_and_samples():
    policy = toy()
    guided = replace(SAMPLER, guidance_scale=3.0)
    assert not torch.equal(roll(policy).mean, roll(policy, guided).mean)
    plain, strong = (
        sample(policy, SCENES, s, torch.Generator().manual_seed(0), chunk_size=3).frames
        for s in (SAMPLER, guided)
    )
    assert not np.array_equal(plain, strong)


def test_trained_steps_need_not_follow_each_other():
    sampler = replace(SAMPLER, window=WindowConfig(kind="random", size=2))
    randomness = next(
        one
        for one in (Randomness(seed=0, iteration=i) for i in range(50))
        if trained_steps(sampler, one) == [1, 3]
    )
    policy = toy()
    trajectory = rollout(policy, SCENES, sampler, 4, randomness, chunk_size=100)
    sigmas = policy.sigmas(6)
    assert torch.equal(trajectory.sigma, sigmas[[1, 3]])
    assert torch.equal(trajectory.sigma_next, sigmas[[2, 4]])
    condition = trajectory.condition.take(trajectory.group)
    with torch.no_grad():
        s, s_next = (sigmas[i].expand(12) for i in (2, 3))
        between, _ = step(
            "ode",
            trajectory.x_next[:, 0],
            policy.velocity(trajectory.x_next[:, 0], s, condition),
            s,
            s_next,
            0.7,
        )
    torch.testing.assert_close(trajectory.x[:, 1], between)


@pytest.mark.parametrize("same_noise", [True, False])
def test_scenes_that_are_sampled_apart_are_the_samples_that_they_are_among_all(same_noise):
    policy, sampler = toy(), replace(SAMPLER, same_noise=same_noise)
    whole = roll(policy, sampler)
    shares: list[Any] = [roll(policy, sampler, own=own, chunk_size=3) for own in ([0, 2], [1])]
    assert [share.here.tolist() for share in shares] == [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7]]
    for share in shares:
        for name in ("x", "x_next", "mean", "latents"):
            torch.testing.assert_close(getattr(share, name), getattr(whole, name)[share.here])
        assert torch.equal(share.group, whole.group)
        assert [one.scene for one in share.samples] == [one.scene for one in whole.samples]
        made = [row for row, one in enumerate(share.samples) if one.frames.size]
        assert made == share.here.tolist()
        own, at = share.found(torch.tensor([1, 5, 6, 10]))
        torch.testing.assert_close(share.latents[at], whole.latents[own])
    assert shares[0].found(torch.tensor([1, 5, 6, 10]))[0].tolist() == [1, 10]


def test_evaluated_scenes_are_the_same_clips_whoever_makes_them():
    policy = toy()

    def clips(own):
        generator = torch.Generator().manual_seed(0)
        twice = [sample_each(policy, SCENES, SAMPLER, generator, chunk_size=2, own=own) for _ in range(2)]
        return torch.stack([one.latents for made in twice for one in made if one.latents is not None])

    torch.testing.assert_close(clips([1]), clips(None)[[1, 4]])
    assert sample_each(policy, SCENES, SAMPLER, torch.Generator(), chunk_size=2, own=[]) == []
