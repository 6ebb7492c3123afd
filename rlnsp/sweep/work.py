"""What an iteration does, counted: a run's own rollout, credit and optimisation on a policy of one number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import Parameter

from rlnsp import plugins
from rlnsp.config import plugin_settings
from rlnsp.ema import EMA
from rlnsp.optimisation import Optimisation, make_optimizer
from rlnsp.protocols import Algorithm, SamplesWithAverage
from rlnsp.randomness import Randomness
from rlnsp.rollout import replay_guidance_scale, rollout
from rlnsp.settings import RunConfig
from rlnsp.types import Condition, Scene, Scores, Video


@dataclass(frozen=True, kw_only=True)
class Work:
    """An iteration's model calls."""

    forwards: int
    """Of one sample each; with guidance a velocity is two of them."""
    backwards: int
    """Of one sample each."""
    trained_fraction: float
    """Trained transitions, of all steps that samples take."""

    @property
    def cost(self) -> int:
        """In forwards; a backward pass is counted as two."""
        return self.forwards + 2 * self.backwards


class CountedPolicy:
    """One latent number, and a count of how often its velocity was asked for."""

    def __init__(self) -> None:
        self.weight = Parameter(torch.zeros(1))
        self.forwards = 0

    def encode(self, scenes: Sequence[Scene]) -> Condition:
        """One token a scene."""
        rows, mask = torch.zeros(len(scenes), 1, 1), torch.ones(len(scenes), 1, dtype=torch.bool)
        return Condition(embeds=rows, mask=mask, null_embeds=torch.zeros(1, 1, 1), null_mask=mask[:1])

    def sigmas(self, num_steps: int) -> Tensor:
        """Evenly spaced."""
        return torch.linspace(1, 0, num_steps + 1)

    def noise(self, n: int, generator: Generator) -> Tensor:
        """(n, 1, 1)."""
        return torch.randn(n, 1, 1, generator=generator)

    def velocity(self, x: Tensor, sigma: Tensor, condition: Condition, guidance_scale: float = 1.0) -> Tensor:
        """Linear in x; counted."""
        self.forwards += len(x) * (1 if guidance_scale == 1.0 else 2)
        return x * (1 + self.weight)

    def decode(self, x: Tensor, generator: Generator) -> Video:
        """A black pixel each."""
        return Video(frames=np.zeros((len(x), 1, 1, 1, 3), np.uint8), fps=1.0)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """The same."""
        yield

    def named_trainable(self) -> Iterator[tuple[str, Parameter]]:
        """The one weight."""
        yield "weight", self.weight

    def encodes_with_trained_parts(self) -> bool:
        """It has none."""
        return False

    def save_adapter(self, folder: Path) -> None:
        """It is never kept."""
        raise NotImplementedError

    def load_adapter(self, folder: Path) -> None:
        """It is never kept."""
        raise NotImplementedError


def work(run: RunConfig) -> Work:
    """The model calls of an iteration in which every group teaches something.

    An iteration of a real run has fewer where groups are without a spread, whose steps are not trained.
    """
    policy, trainer, sampler = CountedPolicy(), run.trainer, run.sampler
    algorithm_class: Any = plugins.find("algorithms", run.algorithm.use)
    algorithm: Algorithm = algorithm_class(plugin_settings("algorithms", run.algorithm, "algorithm"), sampler)
    scenes = [Scene(id=str(i), context=str(i)) for i in range(trainer.scenes_per_iteration)]
    trajectory = rollout(
        policy,
        scenes,
        sampler,
        trainer.group_size,
        Randomness(seed=0, iteration=0),
        chunk_size=trainer.rollout_batch_size or trainer.micro_batch_size,
    )
    samples = len(trajectory.samples)
    raw = torch.arange(samples, dtype=torch.float32).remainder(trainer.group_size)  # no two of a group alike
    batch, _ = algorithm.credit(trajectory, Scores(raw={"drawn": raw}, weights={"drawn": 1.0}))
    old = (
        EMA(dict(policy.named_trainable()), decay=0.0) if isinstance(algorithm, SamplesWithAverage) else None
    )
    optimizer = make_optimizer(policy, trainer)
    optimise = Optimisation(policy=policy, algorithm=algorithm, optimizer=optimizer, config=trainer, old=old)
    optimise(batch, scenes)
    replayed = 1 if replay_guidance_scale(sampler) == 1.0 else 2
    return Work(
        forwards=policy.forwards,
        backwards=len(batch) * trainer.updates_per_rollout * replayed,
        trained_fraction=len(batch) / (samples * sampler.num_steps),
    )
