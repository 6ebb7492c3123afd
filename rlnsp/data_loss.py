"""The data's own diffusion loss: a regulariser beside a reward, and an alarm against hacking it (DDRL)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rlnsp.data import true_clips
from rlnsp.distributed import Ranks
from rlnsp.maths.density import mean_over_latent
from rlnsp.maths.schedule import noised
from rlnsp.protocols import EncodesVideo, Policy, Stats
from rlnsp.randomness import Randomness
from rlnsp.settings import ConfigError, DataLossConfig, RunConfig
from rlnsp.types import Scene


@dataclass(frozen=True, kw_only=True)
class DataLoss:
    """Data-regularised RL (arXiv:2512.04332): coefficient times |v - (noise - x0)|^2 on true next scenes.

    It is the forward KL from the data to the policy, up to a constant, so that a policy that leaves the data
    for a reward's sake pays for it.  A held-out value that rises says that it has left.
    """

    policy: Policy
    """Whose velocity is trained."""
    encoder: EncodesVideo
    """Gives the latents of true clips."""
    config: DataLossConfig
    num_steps: int
    """Of the sampler, whose noise levels the loss is taken at."""
    ranks: Ranks = field(default_factory=Ranks)
    """Each does its share of every forward; the numbers are drawn, and clips encoded, by all alike."""

    def add_gradient(self, scenes: Sequence[Scene], randomness: Randomness, chunk_size: int) -> Stats:
        """Add the gradient of ``coefficient`` times the mean loss over ``batch_size`` of ``scenes``.

        Of several ranks each adds its share of the gradient, and gives the loss of all.

        Args:
            scenes: to draw from.
            randomness: of the iteration.
            chunk_size: largest number of clips in one forward.
        """
        generator = randomness.generator("data")
        chosen = torch.randperm(len(scenes), generator=generator)[: self.config.batch_size].tolist()
        total = 0.0
        for start in range(0, len(chosen), chunk_size):
            part = [scenes[row] for row in chosen[start : start + chunk_size]]
            loss = self._losses(part, generator).sum() / len(chosen)
            if loss.requires_grad:
                (self.config.coefficient * loss).backward()
            total += float(loss.detach())
        return {"data_loss": sum(self.ranks.of_teams(total))}

    def check(self, scenes: Sequence[Scene]) -> None:
        """Raise ConfigError unless the loss can be taken on the first of ``scenes``."""
        with torch.no_grad():
            self._losses(scenes[:1], Randomness(seed=0).generator("data"))

    @torch.no_grad()
    def measure(
        self, scenes: Sequence[Scene], shape: tuple[int, ...], seed: int, chunk_size: int
    ) -> list[float]:
        """The loss a scene, from the same noise each time; NaN for a scene without a true clip of ``shape``.

        Args:
            scenes: held out.
            shape: (F, H, W, 3) of the clips that the policy makes.
            seed: of noise and noise levels.
            chunk_size: largest number of clips in one forward.
        """
        generator = Randomness(seed=seed).generator("data")
        known = [row for row, scene in enumerate(scenes) if true_clips(scene, 1, shape) is not None]
        values = [float("nan")] * len(scenes)
        for start in range(0, len(known), chunk_size):
            rows = known[start : start + chunk_size]
            own = self._losses([scenes[row] for row in rows], generator).tolist()
            losses = self.ranks.collect(own)
            for row, value in zip(rows, losses, strict=True):
                values[row] = value
        return values

    def _losses(self, scenes: Sequence[Scene], generator: torch.Generator) -> Tensor:
        """Of this rank's share of B scenes."""
        clips = []
        for scene in scenes:
            clip = true_clips(scene, 1)
            if clip is None:
                raise ConfigError(
                    f"data_loss: scene {scene.id!r} has no true clip to learn from: give each a video in the "
                    "manifest, or set data_loss.coefficient=0"
                )
            clips.append(clip[0])
        x0 = self.encoder.encode_video(np.stack(clips), generator)
        levels = self.policy.sigmas(self.num_steps)[:-1].to(x0)
        sigma = levels[torch.randint(len(levels), (len(x0),), generator=generator).to(x0.device)]
        noise = torch.randn(x0.shape, generator=generator).to(x0)
        share = self.ranks.share(len(scenes))
        if not share and not self.ranks.sharded:
            return x0.new_zeros(0)
        own = share or [0]  # which counts for nothing
        x0, noise, sigma, scenes = x0[own], noise[own], sigma[own], [scenes[row] for row in own]
        condition = self.policy.encode(scenes)
        v = self.policy.velocity(noised(x0, noise, sigma), sigma, condition)
        return mean_over_latent((v - (noise - x0)).square(), condition.made(x0))[: len(share)]


def data_loss_of(
    policy: Policy, bare: Policy, config: RunConfig, scenes: Sequence[Scene], ranks: Ranks
) -> DataLoss | None:
    """The data's own loss of a run, where its policy can read clips.

    Args:
        policy: in the run's precision.
        bare: the same as it opens.
        config: of the run.
        scenes: that it trains on.
        ranks: of the run.

    Raises:
        ConfigError: the loss has a coefficient, but cannot be taken.
    """
    own = config.data_loss
    if isinstance(bare, EncodesVideo):
        steps = config.sampler.num_steps
        loss = DataLoss(policy=policy, encoder=bare, config=own, num_steps=steps, ranks=ranks)
        if own.coefficient:
            loss.check(scenes)
        return loss
    if own.coefficient:
        raise ConfigError(
            f"data_loss.coefficient is {own.coefficient:g}, but the policy {config.policy.use!r} "
            "cannot read clips: give it encode_video, or set data_loss.coefficient=0"
        )
    return None
