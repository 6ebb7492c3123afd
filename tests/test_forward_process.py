from dataclasses import replace

import pytest
import torch

from rlnsp.config import ConfigError
from rlnsp.credit import Credit
from rlnsp.forward_process import (
    noised_anew,
    reference_distance,
    require_diversity,
    require_levels,
    velocity,
)
from rlnsp.settings import SamplerConfig
from tests.algorithms.trajectories import SAMPLER, gradient, largest, moved, scores, toy, trajectory

VALUES = (0.0, 1.0, 2.0, 5.0, 5.0, 8.0)


def rows(num_levels=3, keep_all=True, made=None):
    made = made or trajectory()
    return made, noised_anew(made, Credit()(scores(*VALUES), made.group, keep_all=keep_all), num_levels)


def test_every_row_is_its_sample_at_a_level_of_the_samplers():
    made, batch = rows()
    assert len(batch) == batch.total == 18
    clean = made.latents.repeat_interleave(3, 0)
    assert torch.equal(batch.x_next, clean)
    assert not batch.sigma_next.any()
    assert set(batch.sigma.tolist()) <= set(made.levels.tolist())
    assert made.levels.tolist() == toy().sigmas(4)[:-1].tolist()
    for levels in batch.sigma.view(6, 3):
        assert len(set(levels.tolist())) == 3  # of one sample no level twice
    assert len({tuple(levels) for levels in batch.sigma.view(6, 3).tolist()}) > 1  # samples differ
    assert batch.scene.tolist() == [0] * 9 + [1] * 9
    torch.testing.assert_close(batch.advantage.view(6, 3)[2], batch.advantage[6].expand(3))


def test_the_noise_is_fresh_and_standard():
    _, batch = rows(4)
    sigma = batch.sigma[:, None, None]
    noise = (batch.x - (1 - sigma) * batch.x_next) / sigma
    flat = noise.flatten(1)
    assert abs(flat.mean()) < 4 / flat.numel() ** 0.5
    assert flat.std() == pytest.approx(1, abs=4 / (2 * flat.numel()) ** 0.5)
    between = flat @ flat.T / flat.shape[1]
    assert (between - torch.diag(between.diag())).abs().max() < 5 / flat.shape[1] ** 0.5


def test_a_process_noises_its_own_samples_as_one_that_has_all_would():
    made, whole = rows()
    own = torch.tensor([0, 1, 2])
    share = replace(made, latents=made.latents[3:], here=own + 3)
    _, batch = rows(made=share)
    assert batch.total == whole.total == 18
    for name in ("x", "x_next", "sigma", "advantage", "scene"):
        assert torch.equal(getattr(batch, name), getattr(whole, name)[9:])


def test_samples_without_effect_are_left_out_and_change_no_others_noise():
    made, every = rows()
    _, some = rows(keep_all=False)
    kept = [0, 2, 3, 4, 5]  # the middle of group 0 has advantage 0
    index = torch.tensor([3 * i + j for i in kept for j in range(3)])
    assert some.total == every.total == 18
    for name in ("x", "x_next", "sigma", "advantage", "scene"):
        assert torch.equal(getattr(some, name), getattr(every, name)[index])
    _, again = rows(made=made)
    assert torch.equal(again.x, every.x)


def test_the_distance_from_the_reference_is_the_mean_square_with_gradient_to_the_policy():
    _, batch = rows()
    policy = toy()
    before = velocity(policy, batch, SAMPLER).detach()
    moved(policy)
    v = velocity(policy, batch, SAMPLER)
    distance = reference_distance(policy, batch, v, SAMPLER)
    torch.testing.assert_close(distance, (v - before).square().mean((1, 2)))
    assert largest(gradient(distance.mean(), policy)) > 0


def test_guidance_in_replay_is_the_trained_one():
    _, batch = rows()
    policy = toy()
    moved(policy)
    guided = SamplerConfig(num_steps=4, guidance_scale=1.0, train_guidance_scale=3.0)
    expected = policy.velocity(batch.x, batch.sigma, batch.condition.take(batch.scene), 3.0)
    assert torch.equal(velocity(policy, batch, guided), expected)


@pytest.mark.parametrize("sampler", [{"rule": "ode"}, {"noise_level": 0.0}])
def test_a_group_of_one_clip_is_refused(sampler):
    with pytest.raises(ConfigError, match=r"nft: .* a group is one clip.*sampler.same_noise=false"):
        require_diversity("nft", SamplerConfig(**sampler))
    require_diversity("nft", SamplerConfig(**sampler, same_noise=False))


def test_more_levels_than_steps_are_refused():
    require_levels(4, SAMPLER)
    with pytest.raises(ConfigError, match=r"num_levels must be at most sampler.num_steps \(4\).*got 5"):
        require_levels(5, SAMPLER)
