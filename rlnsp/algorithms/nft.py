"""DiffusionNFT: good samples pull the velocity, bad ones push it, on the forward process; no likelihood."""

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
from rlnsp.maths.forward_process import nft_loss, optimality
from rlnsp.protocols import Policy, Stats
from rlnsp.replay import numbers
from rlnsp.settings import SamplerConfig, require
from rlnsp.types import Batch, Scores, Trajectory


class NFT:
    """DiffusionNFT (arXiv:2509.16117).  Any sampler; only the finished samples are trained on."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Values are those of the authors' code, where it has them."""

        credit: Credit = field(default_factory=Credit)
        """``advantage_clip`` is A_max, the advantage of a sample that is surely good."""
        beta: float = 1.0
        """How far the implicit good and bad policies are from the one that sampled."""
        num_levels: int = 3
        """Noise levels a sample is trained at.  The authors: all of the sampler's."""
        hold_undecided: bool = True
        """Train samples of advantage 0 too, as the authors do: they hold the policy where it was.  Off, an
        iteration costs less where groups are flat."""
        kl_coefficient: float = 1e-4
        """Of the squared distance of velocities from the policy before RL, a latent dimension."""
        decay_rate: float = 0.001
        """The policy that samples is an average of the weights, whose decay grows by this an iteration,"""
        most_decay: float = 0.5
        """up to this."""

        def __post_init__(self) -> None:
            require(self.beta > 0, f"beta must be positive; got {self.beta}")
            require(self.num_levels >= 1, f"num_levels must be at least 1; got {self.num_levels}")
            for name in ("kl_coefficient", "decay_rate"):
                require(getattr(self, name) >= 0, f"{name} must be 0 or more; got {getattr(self, name)}")
            require(0 <= self.most_decay < 1, f"most_decay must be in [0, 1); got {self.most_decay}")

    def __init__(self, config: Config, sampler: SamplerConfig) -> None:
        require_diversity("nft", sampler)
        require_levels(config.num_levels, sampler)
        self.config, self.sampler = config, sampler

    def decay(self, iteration: int) -> float:
        """Of the average that samples: near 0 at first, when the policy learns most."""
        return min(self.config.decay_rate * iteration, self.config.most_decay)

    def credit(self, trajectory: Trajectory, scores: Scores) -> tuple[Batch, Stats]:
        """Samples at random noise levels, each with its advantage over its group."""
        credited = self.config.credit(scores, trajectory.group, keep_all=self.config.hold_undecided)
        return noised_anew(trajectory, credited, self.config.num_levels), credited.stats

    def anchor(self, policy: Policy, batch: Batch) -> Tensor:
        """The velocity (T, N, C) of the policy that sampled."""
        return velocity(policy, batch, self.sampler)

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Stats]:
        """The pull and the push, plus the distance from the reference where it has a coefficient."""
        v = velocity(policy, batch, self.sampler)
        v_old = v.detach() if batch.anchor is None else batch.anchor
        most = self.config.credit.advantage_clip
        r = optimality(batch.advantage, most)
        # Times A_max over beta, the gradient on-policy is that of A, whatever the two are.
        loss = nft_loss(v, v_old, batch.x, batch.x_next, batch.sigma, r, self.config.beta)
        loss = loss.mean() * (most / self.config.beta)
        change = (v - v_old).detach()
        stats = {"velocity_change_max": change.abs().max(), "velocity_change": change.square().mean()}
        if self.config.kl_coefficient:
            distance = reference_distance(policy, batch, v, self.sampler).mean()
            loss = loss + self.config.kl_coefficient * distance
            stats["reference_distance"] = distance
        return loss, numbers(stats)
