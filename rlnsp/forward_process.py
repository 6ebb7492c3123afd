"""Finished samples noised anew: for training on the forward process, whatever made the samples."""

import torch
from torch import Tensor

from rlnsp.credit import Credited
from rlnsp.maths.density import mean_over_latent
from rlnsp.maths.schedule import noised
from rlnsp.protocols import Policy
from rlnsp.rollout import replay_guidance_scale
from rlnsp.settings import SamplerConfig, require
from rlnsp.types import Batch, Trajectory


def require_diversity(algorithm: str, sampler: SamplerConfig) -> None:
    """Raise ConfigError if all samples of a group would be one clip."""
    require(
        not sampler.same_noise or (sampler.rule != "ode" and sampler.noise_level > 0),
        f"{algorithm}: with sampler.same_noise and deterministic steps a group is one clip, many times: set "
        f"sampler.same_noise=false, or a sampler.rule with noise; got {sampler.rule} and "
        f"{sampler.noise_level}",
    )


def require_levels(num_levels: int, sampler: SamplerConfig) -> None:
    """Raise ConfigError if a sample cannot be trained at so many different levels."""
    require(
        num_levels <= sampler.num_steps,
        f"algorithm.config.num_levels must be at most sampler.num_steps ({sampler.num_steps}), whose noise "
        f"levels they are; got {num_levels}",
    )


def noised_anew(trajectory: Trajectory, credited: Credited, num_levels: int) -> Batch:
    """``num_levels`` rows a sample: its latents mixed with fresh noise, at sigmas that its sampler uses.

    A sample's levels are drawn without replacement, so that each level is as likely as any.

    Args:
        trajectory: its ``latents`` are noised.
        credited: its samples.
        num_levels: at most the sampler's steps.
    """
    device, count = trajectory.latents.device, len(trajectory.samples)
    samples, at = trajectory.found(credited.samples)
    generator = trajectory.randomness.generator("forward")
    # For all B samples, so that which are left out does not change another's noise.
    order = torch.rand(count, len(trajectory.levels), generator=generator).argsort(1)
    shape = (count, num_levels, *trajectory.latents.shape[1:])
    noise = torch.randn(shape, generator=generator)[samples].flatten(0, 1).to(device)
    sigma = trajectory.levels[order[samples, :num_levels].to(device)].flatten()
    rows = samples.repeat_interleave(num_levels)
    clean = trajectory.latents[at.repeat_interleave(num_levels)]
    return Batch(
        x=noised(clean, noise, sigma),
        x_next=clean,
        sigma=sigma,
        sigma_next=torch.zeros_like(sigma),
        advantage=credited.advantage[rows].to(clean),
        condition=trajectory.condition,
        scene=trajectory.group[rows],
        total=credited.total * num_levels,
    )


def velocity(policy: Policy, batch: Batch, sampler: SamplerConfig) -> Tensor:
    """The policy's velocity (T, N, C) at the batch's latents."""
    condition = batch.condition.take(batch.scene)
    return policy.velocity(batch.x, batch.sigma, condition, replay_guidance_scale(sampler))


def reference_distance(policy: Policy, batch: Batch, v: Tensor, sampler: SamplerConfig) -> Tensor:
    """(v - v_ref)^2, a mean over latent dimensions (T,) fp32, with gradient to the policy alone."""
    condition = (batch.reference_condition or batch.condition).take(batch.scene)
    with torch.no_grad(), policy.reference():
        reference = policy.velocity(batch.x, batch.sigma, condition, replay_guidance_scale(sampler))
    return mean_over_latent((v - reference).square(), batch.made)
