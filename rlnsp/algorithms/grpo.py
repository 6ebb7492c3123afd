"""GRPO on flow matching: a group is its own baseline, stochastic denoising steps are the actions."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rlnsp.maths.density import clip_from_nats, kl_to_reference, mean_log_ratio
from rlnsp.maths.policy_gradient import (
    Combine,
    Scale,
    best_and_worst,
    clipped_surrogate,
    combine_rewards,
    group_advantages,
)
from rlnsp.protocols import Policy, Stats
from rlnsp.rollout import replay_guidance_scale, transition
from rlnsp.settings import SamplerConfig, require
from rlnsp.types import Batch, Scores, Trajectory


class GRPO:
    """Flow-GRPO (arXiv:2505.05470) with the choices of DanceGRPO (arXiv:2505.07818)."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """DanceGRPO's HunyuanVideo script is the source of what the paper does not publish."""

        clip: float = 1e-4
        """On the mean log-ratio over latent dimensions (DanceGRPO's script)."""
        clip_nats: float | None = None
        """In place of ``clip``: on the joint log-ratio, so that it means the same for any size of latent."""
        advantage_clip: float = 5.0
        """Largest absolute advantage (DanceGRPO's script; also Flow-GRPO's)."""
        scale: Scale = "group"
        """What deviations are divided by (GRPO, arXiv:2402.03300, and DanceGRPO: the group's std)."""
        kl_coefficient: float = 0.0
        """Of the divergence from the policy before RL, a latent dimension (DanceGRPO: none)."""
        best_k: int = 0
        """Train on this many best samples of a group; 0 with ``worst_k`` 0: on all (the paper: 4 of 24)."""
        worst_k: int = 0
        """And on this many worst ones; mean and std stay those of the whole group (the paper: 4)."""
        aggregation: Combine = "normalize_then_sum"
        """How several rewards become one score (GDPO, arXiv:2601.05242)."""

        def __post_init__(self) -> None:
            require(0 < self.clip < 1, f"clip must be between 0 and 1; got {self.clip}")
            require(
                self.clip_nats is None or self.clip_nats > 0,
                f"clip_nats must be positive; got {self.clip_nats}",
            )
            require(self.advantage_clip > 0, f"advantage_clip must be positive; got {self.advantage_clip}")
            require(self.kl_coefficient >= 0, f"kl_coefficient must be 0 or more; got {self.kl_coefficient}")
            for name in ("best_k", "worst_k"):
                require(getattr(self, name) >= 0, f"{name} must be 0 or more; got {getattr(self, name)}")

    def __init__(self, config: Config, sampler: SamplerConfig) -> None:
        require(
            sampler.rule != "ode" and sampler.noise_level > 0,
            "grpo trains stochastic steps: sampler.rule must not be ode, nor sampler.noise_level 0; "
            f"got {sampler.rule} and {sampler.noise_level}. Choose cps, flow_sde or dance_sde",
        )
        self.config = config
        self.sampler = sampler
        self.guidance_scale = replay_guidance_scale(sampler)

    def credit(self, trajectory: Trajectory, scores: Scores) -> tuple[Batch, Stats]:
        """Every trained step of a sample gets the sample's advantage over its group.

        Samples that could not be scored leave their group.  Those of advantage exactly 0 add nothing to the
        loss (without a KL term), so they are left out of the batch, but not of ``total``, the count that the
        loss is averaged over.
        """
        config, group = self.config, trajectory.group
        score, advantage = self._advantage(scores, group)
        advantage = advantage.clamp(-config.advantage_clip, config.advantage_clip)
        stats = _spread(score, advantage, group)

        taken = ~score.isnan()
        if config.best_k or config.worst_k:
            taken = best_and_worst(score, group, config.best_k, config.worst_k)
        total = int(taken.sum()) * len(trajectory.sigma)
        if not config.kl_coefficient:
            taken = taken & (advantage != 0)
        return _flatten(trajectory, advantage, taken, total), stats

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Stats]:
        """The clipped surrogate, plus the divergence from the reference where it has a coefficient."""
        step, rest = (batch.x, batch.sigma, batch.sigma_next), (self.sampler, self.guidance_scale)
        mean, std = transition(policy, *step, batch.condition.take(batch.scene), *rest)
        old_mean = mean.detach() if batch.old_mean is None else batch.old_mean
        log_ratio = mean_log_ratio(batch.x_next, mean, old_mean, std)
        clip = self._clip(batch)
        loss = clipped_surrogate(log_ratio, batch.advantage, clip).mean()
        stats = _movement(log_ratio, batch.advantage, clip, mean, old_mean, std)
        stats["drift_max"] = mean_log_ratio(batch.x_next, mean.detach(), batch.rollout_mean, std).abs().max()
        if self.config.kl_coefficient:
            condition = (batch.reference_condition or batch.condition).take(batch.scene)
            with torch.no_grad(), policy.reference():
                reference_mean, _ = transition(policy, *step, condition, *rest)
            kl = kl_to_reference(mean, reference_mean, std).mean()
            loss = loss + self.config.kl_coefficient * kl
            stats["kl_reference"] = kl.detach()
        values = torch.stack([value.float() for value in stats.values()]).tolist()
        return loss, dict(zip(stats, values, strict=True))

    def _advantage(self, scores: Scores, group: Tensor) -> tuple[Tensor, Tensor]:
        """One score a sample, NaN where there is none, and how far it is above its group."""
        raw = torch.stack(list(scores.raw.values()))
        weights = torch.tensor([scores.weights[name] for name in scores.raw])
        several = int(weights.count_nonzero()) > 1
        how = self.config.aggregation if several else "sum_then_normalize"
        score = combine_rewards(raw, weights, group, how)
        if how == "normalize_then_sum" and self.config.scale == "group":
            # Terms have their group's scale already; a second one would blow up what is left of a tie.
            return score, score.nan_to_num() / weights.abs().sum()
        return score, group_advantages(score, group, self.config.scale)

    def _clip(self, batch: Batch) -> float:
        if self.config.clip_nats is None:
            return self.config.clip
        return clip_from_nats(self.config.clip_nats, math.prod(batch.x.shape[1:]))


def _spread(score: Tensor, advantage: Tensor, group: Tensor) -> Stats:
    """What is to be learnt from: how many groups hold a difference, and how large advantages are."""
    flat = [bool((advantage[group == number] == 0).all()) for number in group.unique()]
    scored = advantage[~score.isnan()]
    return {
        "zero_variance_groups": sum(flat) / len(flat),
        "advantage_std": float(scored.std(correction=0)) if len(scored) else 0.0,
    }


def _flatten(trajectory: Trajectory, advantage: Tensor, taken: Tensor, total: int) -> Batch:
    """One row a trained step of each taken sample, a sample's steps in a row."""
    samples, steps = taken.nonzero().flatten(), len(trajectory.sigma)
    rows = samples.repeat_interleave(steps)
    return Batch(
        x=trajectory.x[samples].flatten(0, 1),
        x_next=trajectory.x_next[samples].flatten(0, 1),
        rollout_mean=trajectory.mean[samples].flatten(0, 1),
        sigma=trajectory.sigma.repeat(len(samples)),
        sigma_next=trajectory.sigma_next.repeat(len(samples)),
        advantage=advantage[rows].to(trajectory.x),
        condition=trajectory.condition,
        scene=trajectory.group[rows],
        total=total,
    )


def _movement(
    log_ratio: Tensor, advantage: Tensor, clip: float, mean: Tensor, old_mean: Tensor, std: Tensor
) -> dict[str, Tensor]:
    """How far the policy is from the one that sampled; ``_max`` names are maxima, the others means."""
    log_ratio = log_ratio.detach()
    beyond = (log_ratio.expm1() * advantage.sign()) > clip
    return {
        "ratio": log_ratio.exp().mean(),
        "log_ratio_max": log_ratio.abs().max(),
        "clip_fraction": beyond.float().mean(),
        "approx_kl": kl_to_reference(mean.detach(), old_mean, std).mean(),
    }
