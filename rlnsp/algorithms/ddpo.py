"""DDPO: denoising as a decision process, and a scene's own history as the baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from rlnsp.credit import Credit, combined
from rlnsp.maths.policy_gradient import clipped_surrogate, past_clip, reinforce, standardise
from rlnsp.protocols import Policy, Stats
from rlnsp.replay import gaussians, movement, numbers, reference_divergence, replay
from rlnsp.settings import SamplerConfig, require, require_stochastic
from rlnsp.types import Batch, Scores, Trajectory


class DDPO:
    """DDPO (arXiv:2305.13301), with the per-prompt statistics of its authors' code."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Values are those of the authors' code, where it has them."""

        credit: Credit = field(default_factory=lambda: Credit(scale="batch"))
        """``scale`` has no part: the statistics below are what a score is measured by."""
        estimator: Literal["ppo", "reinforce"] = "ppo"
        """ppo: importance weights and a clip (DDPO_IS).  reinforce: neither (DDPO_SF), which is right for one
        update a rollout."""
        clip: float = 1e-4
        """On the mean log-ratio over latent dimensions."""
        history: int = 32
        """Latest scores of a scene that its mean and std are taken over."""
        min_history: int = 16
        """With fewer, those of all samples of the iteration stand in."""
        kl_coefficient: float = 0.0
        """Of the divergence from the policy before RL, a latent dimension."""

        def __post_init__(self) -> None:
            require(0 < self.clip < 1, f"clip must be between 0 and 1; got {self.clip}")
            require(self.history >= 2, f"history must be at least 2; got {self.history}")
            require(
                2 <= self.min_history <= self.history,
                f"min_history must be between 2 and history ({self.history}); got {self.min_history}",
            )
            require(self.kl_coefficient >= 0, f"kl_coefficient must be 0 or more; got {self.kl_coefficient}")

    def __init__(self, config: Config, sampler: SamplerConfig) -> None:
        require_stochastic("ddpo", sampler)
        self.config, self.sampler = config, sampler
        self.history: dict[str, list[float]] = {}

    def credit(self, trajectory: Trajectory, scores: Scores) -> tuple[Batch, Stats]:
        """Every trained step of a sample gets the sample's score, standardised by its scene's history."""
        # Terms of several rewards are summed as they came: a history is of scores, not of ranks in a group.
        score, _ = combined(scores, trajectory.group, "sum_then_normalize")
        advantage = self._advantage([sample.scene.id for sample in trajectory.samples], score)
        credited = self.config.credit.select(
            score, advantage, trajectory.group, keep_all=self.config.kl_coefficient > 0
        )
        return self.config.credit.recorded_steps(trajectory, credited, self.sampler), credited.stats

    def anchor(self, policy: Policy, batch: Batch) -> Tensor:
        """The steps' means (T, N, C)."""
        return gaussians(policy, batch, self.sampler)[0]

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Stats]:
        """The estimator's loss, plus the divergence from the reference where it has a coefficient."""
        steps, clip = replay(policy, batch, self.sampler), self.config.clip
        stopped = past_clip(steps.log_ratio.detach(), batch.advantage, clip)
        if self.config.estimator == "ppo":
            loss = clipped_surrogate(steps.log_ratio, batch.advantage, clip).mean()
        else:
            loss, stopped = reinforce(steps.log_ratio, batch.advantage).mean(), torch.zeros_like(stopped)
        stats = movement(batch, steps, stopped)
        if self.config.kl_coefficient:
            kl = reference_divergence(policy, batch, steps, self.sampler).mean()
            loss = loss + self.config.kl_coefficient * kl
            stats["kl_reference"] = kl
        return loss, numbers(stats)

    def state(self) -> Mapping[str, Any]:
        """The scores so far, which a resumed run needs; JSON."""
        return {"history": {scene: list(scores) for scene, scores in self.history.items()}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up the scores of a run that goes on."""
        self.history = {scene: list(scores) for scene, scores in state["history"].items()}

    def _advantage(self, ids: Sequence[str], score: Tensor) -> Tensor:
        """(B,): each score over the mean and std of its scene's latest ones, itself among them."""
        known = ~score.isnan()
        for scene, value, scored in zip(ids, score.tolist(), known.tolist(), strict=True):
            if scored:
                past = self.history.setdefault(scene, [])
                past.append(value)
                del past[: -self.config.history]
        advantage = torch.zeros_like(score)
        for scene in dict.fromkeys(ids):
            own = torch.tensor([one == scene for one in ids]) & known
            past = torch.tensor(self.history.get(scene, []), dtype=score.dtype)
            baseline = past if len(past) >= self.config.min_history else score[known]
            advantage[own] = standardise(score[own], baseline)
        return advantage
