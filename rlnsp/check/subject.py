"""What is checked: a run's parts, opened as training opens them, and a piece of its first iteration."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from rlnsp import plugins
from rlnsp.config import plugin_settings
from rlnsp.data import SceneOrder, train_scenes
from rlnsp.distributed import Ranks
from rlnsp.maths.density import clip_from_nats
from rlnsp.opening import check_can_make, open_policy
from rlnsp.precision import in_precision
from rlnsp.protocols import Algorithm, Policy
from rlnsp.randomness import Randomness
from rlnsp.rollout import rollout
from rlnsp.scoring import BuiltReward, RewardFailed, build_rewards, check_scenes, score
from rlnsp.settings import RunConfig
from rlnsp.types import Batch, Sample, Scene, Scores, Trajectory

LEAST_GROUPS = 4
"""Groups of the piece, where an iteration has so many: fewer say nothing of the share without spread."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a reward said of the piece's samples."""

    raw: Tensor
    """(B,) fp32, NaN where unscored."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A run's parts, and what is made with them once and looked at by several checks."""

    config: RunConfig
    bare: Policy
    """As it opens; ``policy`` is the same in the run's precision."""
    rewards: list[BuiltReward]
    scenes: list[Scene]
    """The first ones of the run's first iteration: enough to fill a micro-batch of training."""
    ranks: Ranks = field(default_factory=Ranks)
    """Each checks the whole piece; what they began with is compared."""

    @classmethod
    def of(cls, config: RunConfig, policy: Policy | None = None, ranks: Ranks | None = None) -> Subject:
        """Everything that ``config`` names, opened.

        Args:
            config: of a run.
            policy: in the place of the config's.
            ranks: the processes that check, where they are several.

        Raises:
            ConfigError: as training would.
        """
        trainer, window = config.trainer, config.sampler.window
        bare = open_policy(config.policy) if policy is None else policy
        rewards = build_rewards(config.rewards)
        pool = train_scenes(config.data, config.seed)
        check_scenes(rewards, pool)
        check_can_make(bare, pool)
        order = SceneOrder(pool, trainer.scenes_per_iteration, config.seed)
        filling = math.ceil(trainer.micro_batch_size / (trainer.group_size * window.size))
        scenes = order(0)[: max(LEAST_GROUPS, filling)]
        subject = cls(config=config, bare=bare, rewards=rewards, scenes=scenes, ranks=ranks or Ranks())
        subject.algorithm()  # it refuses settings that do not go together
        return subject

    @cached_property
    def policy(self) -> Policy:
        """In the run's precision."""
        return in_precision(self.bare, self.config.trainer.precision)

    def algorithm(self, kl_coefficient: float | None = None) -> Algorithm:
        """A fresh one, as the config has it or with another ``kl_coefficient``."""
        slot = self.config.algorithm
        if kl_coefficient is not None:
            slot = replace(slot, config={**slot.config, "kl_coefficient": kl_coefficient})
        made: Algorithm = plugins.find("algorithms", slot.use)(
            plugin_settings("algorithms", slot, "algorithm"), self.config.sampler
        )
        return made

    @cached_property
    def timed_rollout(self) -> tuple[Trajectory, float]:
        """Whole groups of the scenes, as the first iteration makes them; and the seconds it took."""
        trainer = self.config.trainer
        start = time.perf_counter()
        made = rollout(
            self.policy,
            self.scenes,
            self.config.sampler,
            trainer.group_size,
            Randomness(seed=self.config.seed),
            chunk_size=trainer.micro_batch_size,
        )
        return made, time.perf_counter() - start

    @property
    def trajectory(self) -> Trajectory:
        """Of ``timed_rollout``."""
        return self.timed_rollout[0]

    @cached_property
    def answers(self) -> dict[str, Answer | RewardFailed]:
        """By reward; each asked alone about all samples, as the run asks it."""
        return {reward.name: self._asked(reward) for reward in self.rewards}

    def _asked(self, reward: BuiltReward) -> Answer | RewardFailed:
        samples = self.trajectory.samples
        start = time.perf_counter()
        try:
            raw = ask(reward, samples, self.config.trainer.max_drop_share)
        except RewardFailed as error:
            return error
        return Answer(raw=raw, seconds=time.perf_counter() - start)

    @cached_property
    def batch(self) -> Batch:
        """The piece credited by made-up scores, so that every group has something to teach."""
        made_up = torch.arange(len(self.trajectory.samples)) % self.config.trainer.group_size
        scores = Scores(raw={"made_up": made_up.float()}, weights={"made_up": 1.0})
        return self.algorithm().credit(self.trajectory, scores)[0]

    def rows(self, count: int) -> Batch:
        """The first ``count`` transitions of the batch, as a batch of their own."""
        part = self.batch.take(slice(0, count))
        return replace(part, total=len(part))

    @property
    def latent_dims(self) -> int:
        """D, the tokens that are made times channels."""
        return self.trajectory.condition.latent_dims(self.trajectory.latents)

    @property
    def clip(self) -> float | None:
        """Of the mean log ratio; None for an algorithm without one.

        Raises:
            ValueError: ``clip_nats`` is as large as the latent.
        """
        settings = self.config.algorithm.config
        if settings.get("clip_nats") is not None:
            return clip_from_nats(settings["clip_nats"], self.latent_dims)
        return settings.get("clip")


def ask(reward: BuiltReward, samples: Sequence[Sample], max_drop_share: float = 1.0) -> Tensor:
    """What one reward says of ``samples`` (B,), NaN where unscored, whatever its weight.

    Raises:
        RewardFailed: as in training.
    """
    return score([replace(reward, weight=1.0)], samples, max_drop_share).raw[reward.name]


@contextmanager
def kept(policy: Policy) -> Iterator[None]:
    """Whatever happens inside, the trained weights are afterwards as they were, without gradients."""
    trained = dict(policy.named_trainable())
    before = {name: value.detach().clone() for name, value in trained.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in trained.items():
                value.copy_(before[name])
                value.grad = None
