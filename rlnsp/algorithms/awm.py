"""AWM: the flow-matching loss stands in for a log-likelihood, in a policy gradient on the forward process."""

from dataclasses import dataclass, field

from torch import Tensor

from rlnsp.credit import Credit
from rlnsp.forward_process import (
    noised_anew,
    reference_distance,
    require_diversity,
    require_levels,
    velocity,
)
from rlnsp.maths.forward_process import matching_log_ratio
from rlnsp.maths.policy_gradient import clipped_surrogate, past_clip
from rlnsp.maths.schedule import expand_to
from rlnsp.protocols import Policy, Stats
from rlnsp.replay import numbers
from rlnsp.settings import SamplerConfig, require
from rlnsp.types import Batch, Scores, Trajectory


class AWM:
    """Advantage-weighted matching (arXiv:2509.25050).  Any sampler; only finished samples are trained on."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What the policy is held by."""

        credit: Credit = field(default_factory=Credit)
        num_levels: int = 3
        """Noise levels a sample is trained at."""
        clip: float = 1e-4
        """On the ratio, whose logarithm is a mean over latent dimensions (Flow-Factory's default)."""
        kl_coefficient: float = 0.0
        """Of the squared distance of velocities from the policy before RL, a latent dimension."""

        def __post_init__(self) -> None:
            require(self.num_levels >= 1, f"num_levels must be at least 1; got {self.num_levels}")
            require(0 < self.clip < 1, f"clip must be between 0 and 1; got {self.clip}")
            require(self.kl_coefficient >= 0, f"kl_coefficient must be 0 or more; got {self.kl_coefficient}")

    def __init__(self, config: Config, sampler: SamplerConfig) -> None:
        require_diversity("awm", sampler)
        require_levels(config.num_levels, sampler)
        self.config, self.sampler = config, sampler

    def credit(self, trajectory: Trajectory, scores: Scores) -> tuple[Batch, Stats]:
        """Samples at random noise levels, each with its advantage over its group."""
        credited = self.config.credit(scores, trajectory.group, keep_all=self.config.kl_coefficient > 0)
        return noised_anew(trajectory, credited, self.config.num_levels), credited.stats

    def anchor(self, policy: Policy, batch: Batch) -> Tensor:
        """The velocity (T, N, C) of the policy that sampled."""
        return velocity(policy, batch, self.sampler)

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Stats]:
        """The clipped surrogate, plus the distance from the reference where it has a coefficient."""
        v = velocity(policy, batch, self.sampler)
        v_old = v.detach() if batch.anchor is None else batch.anchor
        target = (batch.x - batch.x_next) / expand_to(batch.sigma, batch.x)  # noise - x0
        log_ratio = matching_log_ratio(v, v_old, target, batch.made)
        loss = clipped_surrogate(log_ratio, batch.advantage, self.config.clip).mean()
        now = log_ratio.detach()
        stats = {
            "ratio": now.exp().mean(),
            "log_ratio_max": now.abs().max(),
            "clip_fraction": past_clip(now, batch.advantage, self.config.clip).float().mean(),
            "matching_loss": (v.detach() - target).square().mean(),
        }
        if self.config.kl_coefficient:
            distance = reference_distance(policy, batch, v, self.sampler).mean()
            loss = loss + self.config.kl_coefficient * distance
            stats["reference_distance"] = distance
        return loss, numbers(stats)
