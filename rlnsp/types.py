"""The nouns that every part of rlnsp passes around.

Shapes:
    B  samples of one iteration (groups * group size)      G  groups: one per scene
    b  those of them that this process made: all, where it is the only one
    S  trained denoising steps                             T  transitions in a (micro-)batch, at most B * S
    N  latent tokens   C  latent channels                  L  condition tokens   D  condition width
    F  frames   H, W  pixels

Conventions: sigma is 1 at noise and 0 at data; x = (1 - sigma) data + sigma noise; velocity = noise - data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlnsp.limits import Limits

if TYPE_CHECKING:
    from torch import Tensor

    from rlnsp.randomness import Randomness


NO_FRAMES = np.zeros((0, 0, 0, 3), np.uint8)
"""Of a clip that was not decoded."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One prompt: the preceding scene, and whatever the manifest says beside it."""

    id: str
    """Unique in its manifest; samples are grouped by it, never by text."""
    context: str
    """The preceding scene in words."""
    context_clip: Path | None = None
    """The preceding scene as a video file, where there is one."""
    video: Path | None = None
    """The true next scene, where there is one."""
    caption: str | None = None
    """What happens in ``video``, in words."""
    fps: float | None = None
    split: str = "train"
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Every other column of the manifest's line."""
    limits: Limits = field(default_factory=Limits)
    """On ``context_clip`` and ``video``, for whoever reads them."""


@dataclass(frozen=True, kw_only=True)
class Video:
    """Decoded clips on the CPU."""

    frames: np.ndarray
    """(B, F, H, W, 3) uint8."""
    fps: float


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One generated next scene: what a reward sees, as far as it declares that it needs it."""

    scene: Scene
    frames: np.ndarray
    """(F, H, W, 3) uint8; empty where no reward needs them."""
    fps: float
    """0 where no reward needs the frames."""
    latents: Tensor | None = None
    """(N, C) fp32, what ``frames`` are decoded from; for a reward that needs them."""
    context_frames: np.ndarray | None = None
    """(F, H, W, 3) uint8, the preceding scene's own video; for a reward that needs it."""
    futures: np.ndarray | None = None
    """(n, F, H, W, 3) uint8, clips that truly follow; for a reward that needs them."""


def rows_by_scene(samples: Sequence[Sample]) -> list[list[int]]:
    """Of each scene, in the order of their first samples, which of the samples are its own."""
    rows: dict[str, list[int]] = {}
    for row, sample in enumerate(samples):
        rows.setdefault(sample.scene.id, []).append(row)
    return list(rows.values())


class Unscored(Exception):
    """In place of a score: there is none, though nothing failed; the message says why.

    The sample leaves its group, is counted, and the reason is shown, whatever ``on_failure`` says.
    """


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a reward scored a sample as it did, for people to read."""

    verdict: str
    """What was decided, in words."""
    passed: bool | None = None
    """Whether that is good or bad; None where it is neither."""
    caption: str | None = None
    """What the clip shows, in words."""
    checks: Mapping[str, bool] = field(default_factory=dict)
    """What was looked at, by name, and whether it holds."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What the denoiser attends to, a row a scene or a sample, and the row that stands for 'no condition'."""

    embeds: Tensor
    """(B, L, D)."""
    mask: Tensor
    """(B, L) bool; True where attended to."""
    null_embeds: Tensor
    """(1, L, D), of the empty context; used by classifier-free guidance."""
    null_mask: Tensor
    """(1, L) bool."""
    first: Tensor | None = None
    """(B, n, C) fp32, the latents of the first n tokens where those are known and not to be made."""

    def take(self, index: Tensor) -> Condition:
        """The rows at ``index``, a long tensor of at least one; rows may repeat, and their gradients add up.

        The same gradient each time, to the last bit: ``embeds[index]`` on the CPU, as ``index_select`` on
        CUDA, adds up in whatever order threads come.
        """
        import torch

        rows = self.embeds.unbind()
        return replace(
            self,
            embeds=torch.stack([rows[i] for i in index.tolist()]),
            mask=self.mask[index],
            first=None if self.first is None else self.first[index],
        )

    def given(self, x: Tensor) -> Tensor:
        """Latents (B, N, C) with those in their place that are known."""
        if self.first is None:
            return x
        import torch

        return torch.cat([self.first.to(x), x[:, self.first.shape[1] :]], 1)

    def made(self, x: Tensor) -> Tensor | None:
        """(B, N) bool, of latents (B, N, C): False at the tokens that are known.  None: none are."""
        if self.first is None:
            return None
        import torch

        return (torch.arange(x.shape[1], device=x.device) >= self.first.shape[1]).expand(len(x), -1)

    def latent_dims(self, x: Tensor) -> int:
        """D, of latents (B, N, C): the tokens that are made times the channels."""
        known = 0 if self.first is None else self.first.shape[1]
        return (x.shape[1] - known) * x.shape[2]


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """Rollouts of whole groups, with the trained steps kept.

    Of several processes each has the latents of its own groups, b of the B samples; whose samples they are,
    and their scores, it knows of all.
    """

    samples: Sequence[Sample]
    """B; those of other processes have neither frames nor latents."""
    group: Tensor
    """(B,) long; the number of each sample's group, 0 to G - 1."""
    condition: Condition
    """G rows: a scene is encoded once; ``condition.take(group)`` has a row a sample."""
    latents: Tensor
    """(b, N, C) fp32; the final, denoised latents."""
    x: Tensor
    """(b, S, N, C) fp32; before each trained step."""
    x_next: Tensor
    """(b, S, N, C) fp32; after it."""
    mean: Tensor
    """(b, S, N, C) fp32; the step's mean as the rollout computed it.  Only drift is measured against it."""
    sigma: Tensor
    """(S,) fp32."""
    sigma_next: Tensor
    """(S,) fp32."""
    levels: Tensor
    """(num_steps,) fp32; the sigma before each step of the schedule, trained or not."""
    randomness: Randomness
    """Of the iteration; streams that the rollout did not use are free."""
    here: Tensor | None = None
    """(b,) long, rising; which of the B samples the latents are of.  None: all."""

    def found(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Of ``samples``, (K,) long and rising, those whose latents are here; and where, in ``latents``."""
        if self.here is None:
            return samples, samples
        import torch

        own = samples[torch.isin(samples, self.here)]
        return own, torch.searchsorted(self.here, own)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What the rewards said of a trajectory's samples."""

    raw: Mapping[str, Tensor]
    """Per reward name, (B,) fp32; NaN where the reward could not score the sample."""
    weights: Mapping[str, float]
    """Per reward name; 0 means logged, not optimised."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Per reward name, how long its calls took, added up."""
    errors: Mapping[str, str] = field(default_factory=dict)
    """The last error of each reward that had one."""

    @property
    def scored(self) -> Tensor:
        """(B,) bool; True where every optimised reward gave a score."""
        optimised = [values for name, values in self.raw.items() if self.weights[name]]
        return ~sum(optimised[1:], optimised[0]).isnan()  # NaN survives a sum


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Credited transitions, flat over samples and trained steps: what a loss sees.

    Losses on the forward process have transitions that no policy drew: ``x`` is a finished sample noised
    anew, ``x_next`` the sample itself, at ``sigma_next`` 0.
    """

    x: Tensor
    """(T, N, C) fp32."""
    x_next: Tensor
    """(T, N, C) fp32."""
    sigma: Tensor
    """(T,)."""
    sigma_next: Tensor
    """(T,)."""
    advantage: Tensor
    """(T,)."""
    condition: Condition
    """G rows."""
    scene: Tensor
    """(T,) long; each transition's row of ``condition``."""
    total: int
    """Transitions that the loss is averaged over; above ``len`` where those without effect are left out."""
    reference_condition: Condition | None = None
    """As ``condition``, by the policy before RL.  None: the same, since RL does not change what encodes."""
    rollout_mean: Tensor | None = None
    """(T, N, C) fp32; see ``Trajectory.mean``."""
    anchor: Tensor | None = None
    """(T, N, C) fp32; what ``Algorithm.anchor`` says of the policy that sampled, at the training geometry.
    None: that of the policy as it is."""

    def __len__(self) -> int:
        return len(self.sigma)

    @property
    def made(self) -> Tensor | None:
        """(T, N) bool; False at tokens that the condition knows, which no density counts.  None: all made."""
        return self.condition.made(self.x)

    def take(self, index: Any) -> Batch:
        """The transitions at ``index``: a slice, a long tensor or a mask."""
        return replace(self, **{name: value[index] for name, value in self._rows().items()})

    def idle(self) -> Batch:
        """One row to compute with where nothing is left to learn from: the first, or one of zeros."""
        if len(self):
            return self.take(slice(0, 1))
        made = {name: value.new_zeros(1, *value.shape[1:]) for name, value in self._rows().items()}
        return replace(
            self, **{**made, "sigma": made["sigma"] + 0.5, "sigma_next": made["sigma_next"] + 0.25}
        )

    def _rows(self) -> dict[str, Tensor]:
        shared = {"condition", "reference_condition", "total"}
        rows = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in shared}
        return {name: value for name, value in rows.items() if value is not None}

    def divide(self, parts: int) -> Iterator[Batch]:
        """Whole groups, an equal number in each part where that is possible; a part may have no rows."""
        groups = len(self.condition.mask)
        for part in range(parts):
            start, end = (groups * edge // parts for edge in (part, part + 1))
            rows = (self.scene >= start) & (self.scene < end)
            # A group has as many transitions as any other, those without effect included.
            yield replace(self.take(rows), total=round(self.total * (end - start) / groups))

    def split(self, size: int) -> Iterator[Batch]:
        """Consecutive parts of at most ``size`` transitions."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))
