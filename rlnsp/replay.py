"""Recorded steps scored anew: how likely they have become, and how far the policy is from its reference."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlnsp.maths.density import kl_to_reference, mean_log_ratio
from rlnsp.protocols import Policy
from rlnsp.rollout import replay_guidance_scale, transition
from rlnsp.settings import SamplerConfig
from rlnsp.types import Batch


@dataclass(frozen=True, kw_only=True)
class Replay:
    """T recorded steps under the policy as it is."""

    mean: Tensor
    """(T, N, C) fp32, with gradient."""
    std: Tensor
    """(T, 1, 1) fp32."""
    old_mean: Tensor
    """(T, N, C) fp32; of the policy that drew the steps, at this very geometry."""
    log_ratio: Tensor
    """(T,) fp32, mean over latent dimensions, with gradient."""


def gaussians(policy: Policy, batch: Batch, sampler: SamplerConfig) -> tuple[Tensor, Tensor]:
    """Mean (T, N, C) and std (T, 1, 1) of the steps of ``batch``, as ``sampler`` makes them."""
    condition = batch.condition.take(batch.scene)
    scale = replay_guidance_scale(sampler)
    return transition(policy, batch.x, batch.sigma, batch.sigma_next, condition, sampler, scale)


def replay(policy: Policy, batch: Batch, sampler: SamplerConfig) -> Replay:
    """Score the steps of ``batch`` as ``sampler`` made them."""
    mean, std = gaussians(policy, batch, sampler)
    # With one update a rollout the old mean is the current one: no second forward is needed.
    old_mean = mean.detach() if batch.anchor is None else batch.anchor
    log_ratio = mean_log_ratio(batch.x_next, mean, old_mean, std, batch.made)
    return Replay(mean=mean, std=std, old_mean=old_mean, log_ratio=log_ratio)


def reference_divergence(policy: Policy, batch: Batch, steps: Replay, sampler: SamplerConfig) -> Tensor:
    """KL (T,) fp32 to the policy before RL, per latent dimension, with gradient to the policy alone."""
    condition = (batch.reference_condition or batch.condition).take(batch.scene)
    scale = replay_guidance_scale(sampler)
    with torch.no_grad(), policy.reference():
        mean, _ = transition(policy, batch.x, batch.sigma, batch.sigma_next, condition, sampler, scale)
    return kl_to_reference(steps.mean, mean, steps.std, batch.made)


def movement(batch: Batch, steps: Replay, stopped: Tensor) -> dict[str, Tensor]:
    """How far the policy is from the one that sampled; ``_max`` names are maxima, the others means.

    Args:
        batch: what was replayed.
        steps: its replay.
        stopped: (T,) bool; the steps that a clip or mask keeps from having a gradient.
    """
    log_ratio, mean = steps.log_ratio.detach(), steps.mean.detach()
    assert batch.rollout_mean is not None, "recorded steps have one"
    drift = mean_log_ratio(batch.x_next, mean, batch.rollout_mean, steps.std, batch.made)
    return {
        "ratio": log_ratio.exp().mean(),
        "log_ratio_max": log_ratio.abs().max(),
        "clip_fraction": stopped.float().mean(),
        "approx_kl": kl_to_reference(mean, steps.old_mean, steps.std, batch.made).mean(),
        "drift_max": drift.abs().max(),
    }


def numbers(stats: dict[str, Tensor]) -> dict[str, float]:
    """Tensors of one element each as floats, by one transfer."""
    values = torch.stack([value.detach().float() for value in stats.values()]).tolist()
    return dict(zip(stats, values, strict=True))
