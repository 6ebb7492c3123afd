"""GRPO-Guard: GRPO whose ratios have mean 1 and one scale at every step, so that one clip fits them all."""

from dataclasses import dataclass, field

from torch import Tensor

from rlnsp.credit import Credit
from rlnsp.maths.density import normalised_log_ratio
from rlnsp.maths.policy_gradient import clipped_surrogate, past_clip
from rlnsp.protocols import Policy, Stats
from rlnsp.replay import gaussians, movement, numbers, reference_divergence, replay
from rlnsp.settings import SamplerConfig, require, require_stochastic
from rlnsp.types import Batch, Scores, Trajectory


class GRPOGuard:
    """GRPO-Guard (arXiv:2510.22319): RatioNorm, and gradients of one size at every step."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The clip is that of the authors' Flow-GRPO recipe."""

        credit: Credit = field(default_factory=Credit)
        clip: float = 2e-6
        """On the normalised log-ratio, a mean over latent dimensions."""
        kl_coefficient: float = 0.0
        """Of the divergence from the policy before RL, a latent dimension."""

        def __post_init__(self) -> None:
            require(0 < self.clip < 1, f"clip must be between 0 and 1; got {self.clip}")
            require(self.kl_coefficient >= 0, f"kl_coefficient must be 0 or more; got {self.kl_coefficient}")

    def __init__(self, config: Config, sampler: SamplerConfig) -> None:
        require_stochastic("grpo_guard", sampler)
        self.config, self.sampler = config, sampler

    def credit(self, trajectory: Trajectory, scores: Scores) -> tuple[Batch, Stats]:
        """Every trained step of a sample gets the sample's advantage over its group."""
        credited = self.config.credit(scores, trajectory.group, keep_all=self.config.kl_coefficient > 0)
        return self.config.credit.recorded_steps(trajectory, credited, self.sampler), credited.stats

    def anchor(self, policy: Policy, batch: Batch) -> Tensor:
        """The steps' means (T, N, C)."""
        return gaussians(policy, batch, self.sampler)[0]

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Stats]:
        """The clipped surrogate of the normalised ratio, over -dt; and the divergence from the reference.

        The mean of a step moves by dt with the velocity, so what reaches the policy goes with -dt: without
        the division, long steps would outweigh short ones.
        """
        steps = replay(policy, batch, self.sampler)
        ratio = normalised_log_ratio(batch.x_next, steps.mean, steps.old_mean, steps.std, batch.made)
        surrogate = clipped_surrogate(ratio, batch.advantage, self.config.clip)
        loss = (surrogate / (batch.sigma - batch.sigma_next)).mean()
        stats = movement(batch, steps, past_clip(ratio.detach(), batch.advantage, self.config.clip))
        stats["normalised_ratio"] = ratio.exp().mean()
        if self.config.kl_coefficient:
            kl = reference_divergence(policy, batch, steps, self.sampler).mean()
            loss = loss + self.config.kl_coefficient * kl
            stats["kl_reference"] = kl
        return loss, numbers(stats)
