from dataclasses import replace

import numpy as np
import pytest
import torch

from rlnsp.config import ConfigError
from rlnsp.data import true_clips
from rlnsp.data_loss import DataLoss
from rlnsp.manifest import read_clip, write_clip
from rlnsp.randomness import Randomness
from rlnsp.settings import DataLossConfig
from rlnsp.testing import ToyPolicy
from rlnsp.types import Scene
from rlnsp.world import scenes as world_scenes


@pytest.fixture
def toy():
    """A policy that has moved."""
    policy = ToyPolicy(ToyPolicy.Config())
    for _, value in policy.named_trainable():
        value.data.add_(0.2 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    return policy


@pytest.fixture
def scenes(tmp_path):
    """Six scenes with a clip each, of the toy's size."""
    rng = np.random.default_rng(0)
    for number in range(6):
        flat = rng.integers(40, 215, size=(1, 1, 1, 3)).astype(np.uint8)
        write_clip(tmp_path / f"{number}.mp4", np.broadcast_to(flat, (2, 16, 16, 3)), 8.0)
    return [Scene(id=f"s{n}", context=f"context {n}", video=tmp_path / f"{n}.mp4") for n in range(6)]


def data_loss(policy, **settings):
    return DataLoss(policy=policy, encoder=policy, config=DataLossConfig(**settings), num_steps=4)


def gradients(policy):
    return {name: value.grad for name, value in policy.named_trainable()}


def clear(policy):
    for _, value in policy.named_trainable():
        value.grad = torch.zeros_like(value)


class KnowsTheFirst(ToyPolicy):
    """Its clips' first latent is known, and is not the data's."""

    def encode(self, scenes):
        return replace(super().encode(scenes), first=torch.full((len(scenes), 1, 3), 9.0))

    def velocity(self, x, sigma, condition, guidance_scale=1.0):
        self.seen = x
        v = super().velocity(condition.given(x), sigma, condition, guidance_scale)
        known = (x - 9)[:, :1] / sigma[:, None, None]
        return torch.cat([known, v[:, 1:]], 1)


def test_latents_that_are_known_have_no_part_in_the_loss(scenes):
    policy = KnowsTheFirst(ToyPolicy.Config())
    measured = data_loss(policy).measure(scenes, (2, 16, 16, 3), seed=3, chunk_size=6)
    clips = [read_clip(scene.video)[0] for scene in scenes]
    generator = Randomness(seed=3).generator("data")
    sigma = policy.sigmas(4)[:-1][torch.randint(4, (6,), generator=generator)]
    x0 = policy.encode_video(np.stack(clips))
    assert (x0[:, 0] - 9).abs().min() > 1
    noise = torch.randn(x0.shape, generator=generator)
    v = policy.velocity(policy.seen, sigma, policy.encode(scenes))
    errors = (v - (noise - x0)).square()[:, 1:]
    assert measured == pytest.approx(errors.mean((1, 2)).tolist(), rel=1e-4)


def test_a_policys_latents_of_its_own_clip_are_that_clips(toy):
    x = toy.noise(3, torch.Generator().manual_seed(0))
    assert (toy.encode_video(toy.decode(x, torch.Generator()).frames) - x).abs().max() < 0.1


def test_the_loss_is_that_of_a_slow_loop(toy, scenes):
    measured = data_loss(toy).measure(scenes, (2, 16, 16, 3), seed=3, chunk_size=6)
    generator = Randomness(seed=3).generator("data")
    x0 = torch.cat([toy.encode_video(clip) for scene in scenes if (clip := true_clips(scene, 1)) is not None])
    places = torch.randint(4, (6,), generator=generator).tolist()
    noise = torch.randn(x0.shape, generator=generator)
    for row, place in enumerate(places):
        sigma = toy.sigmas(4)[place]
        x = (1 - sigma) * x0[row] + sigma * noise[row]
        v = toy.velocity(x[None], sigma[None], toy.encode(scenes[row : row + 1]))[0]
        expected = ((v - (noise[row] - x0[row])) ** 2).mean().item()
        assert measured[row] == pytest.approx(expected, rel=1e-4)
    assert set(places) <= {0, 1, 2, 3}  # sigma 0, where nothing is to be learnt, is not among them
    assert len(set(places)) > 1


def test_the_gradient_is_the_coefficient_times_that_of_the_mean(toy, scenes):
    clear(toy)
    told = data_loss(toy, coefficient=0.25, batch_size=6).add_gradient(scenes, Randomness(seed=0), 6)
    quarter = gradients(toy)
    clear(toy)
    data_loss(toy, coefficient=1.0, batch_size=6).add_gradient(scenes, Randomness(seed=0), 6)
    whole = gradients(toy)
    assert any(bool(value.any()) for value in whole.values() if value is not None)
    for name, value in whole.items():
        torch.testing.assert_close(quarter[name], 0.25 * value)
    # A small step against the gradient lowers the very loss that was told.
    with torch.no_grad():
        for name, value in toy.named_trainable():
            value.sub_(1e-2 * whole[name])
    clear(toy)
    after = data_loss(toy, coefficient=1.0, batch_size=6).add_gradient(scenes, Randomness(seed=0), 6)
    assert after["data_loss"] < told["data_loss"]


def test_it_adds_to_what_is_there_and_to_nothing_of_the_reference(toy, scenes):
    clear(toy)
    for _, value in toy.named_trainable():
        value.grad = torch.ones_like(value)
    data_loss(toy, coefficient=0.0, batch_size=2).add_gradient(scenes, Randomness(seed=0), 2)
    assert all(
        value is not None and torch.equal(value, torch.ones_like(value)) for value in gradients(toy).values()
    )


def test_scenes_are_drawn_anew_each_iteration_and_the_same_each_time(toy, scenes):
    loss = data_loss(toy, coefficient=1.0, batch_size=2)
    told = []
    for iteration in (0, 1, 0):
        clear(toy)
        told.append(loss.add_gradient(scenes, Randomness(seed=0, iteration=iteration), 2)["data_loss"])
    assert told[0] == told[2] != told[1]


def test_a_scene_whose_clip_is_unknown_or_of_another_size_is_not_measured(toy, scenes):
    unknown = Scene(id="u", context="nothing of the world")
    measured = data_loss(toy).measure(
        [unknown, scenes[0], *world_scenes("heldout", 1, 0)], (2, 16, 16, 3), 0, 8
    )
    assert [value == value for value in measured] == [False, True, False]


def test_training_without_clips_is_refused_with_the_remedy(toy):
    with pytest.raises(ConfigError, match=r"scene 'u' has no true clip .* data_loss.coefficient=0"):
        data_loss(toy).check([Scene(id="u", context="nothing of the world")])


def test_settings_out_of_range_are_refused():
    for settings in ({"coefficient": -1.0}, {"alarm": -0.1}, {"batch_size": 0}):
        with pytest.raises(ConfigError, match=f"data_loss.{next(iter(settings))} must be"):
            replace(DataLossConfig(), **settings)
