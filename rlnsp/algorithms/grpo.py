"""GRPO on flow matching: a group is its own baseline, stochastic denoising steps are the actions."""

from dataclasses import dataclass, field

from torch import Tensor

from rlnsp.credit import Credit
from rlnsp.maths.density import clip_from_nats
from rlnsp.maths.policy_gradient import clipped_surrogate, past_clip
from rlnsp.protocols import Policy, Stats
from rlnsp.replay import gaussians, movement, numbers, reference_divergence, replay
from rlnsp.settings import SamplerConfig, require, require_stochastic
from rlnsp.types import Batch, Scores, Trajectory


class GRPO:
    """Flow-GRPO (arXiv:2505.05470) with the choices of DanceGRPO (arXiv:2505.07818)."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """DanceGRPO's HunyuanVideo script is the source of what the paper does not publish."""

        credit: Credit = field(default_factory=Credit)
        clip: float = 1e-4
        """On the mean log-ratio over latent dimensions (DanceGRPO's script)."""
        clip_nats: float | None = None
        """In place of ``clip``: on the joint log-ratio, so that it means the same for any size of latent."""
        kl_coefficient: float = 0.0
        """Of the divergence from the policy before RL, a latent dimension (DanceGRPO: none)."""

        def __post_init__(self) -> None:
            require(0 < self.clip < 1, f"clip must be between 0 and 1; got {self.clip}")
            require(
                self.clip_nats is None or self.clip_nats > 0,
                f"clip_nats must be positive; got {self.clip_nats}",
            )
            require(self.kl_coefficient >= 0, f"kl_coefficient must be 0 or more; got {self.kl_coefficient}")

    def __init__(self, config: Config, sampler: SamplerConfig) -> None:
        require_stochastic("grpo", sampler)
        self.config, self.sampler = config, sampler

    def credit(self, trajectory: Trajectory, scores: Scores) -> tuple[Batch, Stats]:
        """Every trained step of a sample gets the sample's advantage over its group."""
        credited = self.config.credit(scores, trajectory.group, keep_all=self.config.kl_coefficient > 0)
        return self.config.credit.recorded_steps(trajectory, credited, self.sampler), credited.stats

    def anchor(self, policy: Policy, batch: Batch) -> Tensor:
        """The steps' means (T, N, C)."""
        return gaussians(policy, batch, self.sampler)[0]

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Stats]:
        """The clipped surrogate, plus the divergence from the reference where it has a coefficient."""
        steps, clip = replay(policy, batch, self.sampler), self._clip(batch)
        loss = clipped_surrogate(steps.log_ratio, batch.advantage, clip).mean()
        stats = movement(batch, steps, past_clip(steps.log_ratio.detach(), batch.advantage, clip))
        if self.config.kl_coefficient:
            kl = reference_divergence(policy, batch, steps, self.sampler).mean()
            loss = loss + self.config.kl_coefficient * kl
            stats["kl_reference"] = kl
        return loss, numbers(stats)

    def _clip(self, batch: Batch) -> float:
        if self.config.clip_nats is None:
            return self.config.clip
        return clip_from_nats(self.config.clip_nats, batch.condition.latent_dims(batch.x))
