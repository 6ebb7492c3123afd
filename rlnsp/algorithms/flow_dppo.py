"""Flow-DPPO: no clip; a step is left out once the policy has moved too far on it, its advantage's way."""

from dataclasses import dataclass, field

from torch import Tensor

from rlnsp.credit import Credit
from rlnsp.maths.density import kl_to_reference
from rlnsp.maths.policy_gradient import masked_surrogate
from rlnsp.protocols import Policy, Stats
from rlnsp.replay import gaussians, movement, numbers, reference_divergence, replay
from rlnsp.settings import SamplerConfig, require, require_stochastic
from rlnsp.types import Batch, Scores, Trajectory


class FlowDPPO:
    """Flow-DPPO (arXiv:2606.11025): a trust region in the divergence itself, in place of the ratio's clip."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Both are per latent dimension."""

        credit: Credit = field(default_factory=Credit)
        max_divergence: float = 1e-5
        """KL to the policy that sampled, above which a step may move no further.  This project's choice."""
        kl_coefficient: float = 0.0
        """Of the divergence from the policy before RL."""

        def __post_init__(self) -> None:
            require(self.max_divergence > 0, f"max_divergence must be positive; got {self.max_divergence}")
            require(self.kl_coefficient >= 0, f"kl_coefficient must be 0 or more; got {self.kl_coefficient}")

    def __init__(self, config: Config, sampler: SamplerConfig) -> None:
        require_stochastic("flow_dppo", sampler)
        self.config, self.sampler = config, sampler

    def credit(self, trajectory: Trajectory, scores: Scores) -> tuple[Batch, Stats]:
        """Every trained step of a sample gets the sample's advantage over its group."""
        credited = self.config.credit(scores, trajectory.group, keep_all=self.config.kl_coefficient > 0)
        return self.config.credit.recorded_steps(trajectory, credited, self.sampler), credited.stats

    def anchor(self, policy: Policy, batch: Batch) -> Tensor:
        """The steps' means (T, N, C)."""
        return gaussians(policy, batch, self.sampler)[0]

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Stats]:
        """The masked surrogate, plus the divergence from the reference where it has a coefficient."""
        steps = replay(policy, batch, self.sampler)
        divergence = kl_to_reference(steps.mean.detach(), steps.old_mean, steps.std, batch.made)
        surrogate, masked = masked_surrogate(
            steps.log_ratio, batch.advantage, divergence, self.config.max_divergence
        )
        loss, stats = surrogate.mean(), movement(batch, steps, masked)
        if self.config.kl_coefficient:
            kl = reference_divergence(policy, batch, steps, self.sampler).mean()
            loss = loss + self.config.kl_coefficient * kl
            stats["kl_reference"] = kl
        return loss, numbers(stats)
