"""Scores of whole groups -> samples with advantages, and the transitions of those that are trained on."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rlnsp.maths.policy_gradient import Combine, Scale, best_and_worst, combine_rewards, group_advantages
from rlnsp.maths.steps import step_std
from rlnsp.protocols import Stats
from rlnsp.settings import SamplerConfig, require
from rlnsp.types import Batch, Scores, Trajectory


@dataclass(frozen=True, kw_only=True)
class Credit:
    """How scores become advantages, and which samples and steps they train."""

    advantage_clip: float = 5.0
    """Largest absolute advantage (DanceGRPO's script; also Flow-GRPO's)."""
    scale: Scale = "group"
    """What deviations are divided by (GRPO, arXiv:2402.03300, and DanceGRPO: the group's std)."""
    best_k: int = 0
    """Train on this many best samples of a group; 0 with ``worst_k`` 0: on all (the paper: 4 of 24)."""
    worst_k: int = 0
    """And on this many worst ones; mean and std stay those of the whole group (the paper: 4)."""
    aggregation: Combine = "normalize_then_sum"
    """How several rewards become one score (GDPO, arXiv:2601.05242)."""
    steps: Literal["equal", "noise"] = "equal"
    """How a sample's steps share its advantage.  noise: in proportion to their std, with a mean of 1, so that
    a step that explores more learns more (TempFlow-GRPO, arXiv:2508.04324)."""

    def __post_init__(self) -> None:
        require(self.advantage_clip > 0, f"credit.advantage_clip must be positive; got {self.advantage_clip}")
        for name in ("best_k", "worst_k"):
            require(getattr(self, name) >= 0, f"credit.{name} must be 0 or more; got {getattr(self, name)}")

    def __call__(self, scores: Scores, group: Tensor, *, keep_all: bool = False) -> "Credited":
        """Measure every sample by its group.

        Args:
            scores: of whole groups.
            group: (B,) long, the number of each sample's group.
            keep_all: as of ``select``.
        """
        score, advantage = self._advantage(scores, group)
        return self.select(score, advantage, group, keep_all=keep_all)

    def select(
        self, score: Tensor, advantage: Tensor, group: Tensor, *, keep_all: bool = False
    ) -> "Credited":
        """Choose what to train on.

        Samples that could not be scored leave their group.  Those of advantage exactly 0 add nothing to a
        policy gradient, so they are left out, but not of ``total``.

        Args:
            score: (B,); NaN where a sample could not be scored.
            advantage: (B,).
            group: (B,).
            keep_all: samples of advantage 0 too, for a loss that has other terms.
        """
        advantage = advantage.clamp(-self.advantage_clip, self.advantage_clip)
        taken = ~score.isnan()
        if self.best_k or self.worst_k:
            taken = best_and_worst(score, group, self.best_k, self.worst_k)
        total = int(taken.sum())
        if not keep_all:
            taken = taken & (advantage != 0)
        stats = _spread(score, advantage, group)
        return Credited(samples=taken.nonzero().flatten(), advantage=advantage, total=total, stats=stats)

    def recorded_steps(self, trajectory: Trajectory, credited: "Credited", sampler: SamplerConfig) -> Batch:
        """One row a trained step of each sample, a sample's steps in a row, each with its advantage.

        Args:
            trajectory: whole groups.
            credited: its samples.
            sampler: that made it.
        """
        steps = len(trajectory.sigma)
        samples, at = trajectory.found(credited.samples)
        rows = samples.repeat_interleave(steps)
        shares = self._shares(trajectory, sampler)
        return Batch(
            x=trajectory.x[at].flatten(0, 1),
            x_next=trajectory.x_next[at].flatten(0, 1),
            rollout_mean=trajectory.mean[at].flatten(0, 1),
            sigma=trajectory.sigma.repeat(len(samples)),
            sigma_next=trajectory.sigma_next.repeat(len(samples)),
            advantage=credited.advantage[rows].to(trajectory.x) * shares.repeat(len(samples)),
            condition=trajectory.condition,
            scene=trajectory.group[rows],
            total=credited.total * steps,
        )

    def _advantage(self, scores: Scores, group: Tensor) -> tuple[Tensor, Tensor]:
        """One score a sample, NaN where there is none, and how far it is above its group."""
        score, how = combined(scores, group, self.aggregation)
        if how == "normalize_then_sum" and self.scale == "group":
            # Terms have their group's scale already; a second one would blow up what is left of a tie.
            return score, score.nan_to_num() / sum(abs(weight) for weight in scores.weights.values())
        return score, group_advantages(score, group, self.scale)

    def _shares(self, trajectory: Trajectory, sampler: SamplerConfig) -> Tensor:
        """(S,), of mean 1."""
        sigma = trajectory.sigma
        if self.steps == "equal":
            return torch.ones_like(sigma)
        std = step_std(sampler.rule, sigma, trajectory.sigma_next, sampler.noise_level, sampler.std_cap)
        return std / std.mean()


@dataclass(frozen=True, kw_only=True)
class Credited:
    """What to train on, before it is cut into transitions."""

    samples: Tensor
    """(K,) long, rising: which of the B samples."""
    advantage: Tensor
    """(B,), clipped; 0 where there is no score."""
    total: int
    """Samples that the loss is averaged over; above K where those without effect are left out."""
    stats: Stats
    """For the log."""


def combined(scores: Scores, group: Tensor, aggregation: Combine) -> tuple[Tensor, Combine]:
    """One score a sample (B,), and how it was made: of one reward it is the weighted reward, as it came."""
    raw = torch.stack(list(scores.raw.values()))
    weights = torch.tensor([scores.weights[name] for name in scores.raw])
    how: Combine = aggregation if int(weights.count_nonzero()) > 1 else "sum_then_normalize"
    return combine_rewards(raw, weights, group, how), how


def _spread(score: Tensor, advantage: Tensor, group: Tensor) -> Stats:
    """What is to be learnt from: how many groups hold a difference, and how large advantages are."""
    flat = [bool((advantage[group == number] == 0).all()) for number in group.unique()]
    scored = advantage[~score.isnan()]
    return {
        "zero_variance_groups": sum(flat) / len(flat),
        "advantage_std": float(scored.std(correction=0)) if len(scored) else 0.0,
    }
