"""The three seams of rlnsp.

A plug-in is a final class with a nested frozen ``Config`` dataclass that fits one of them.  It is built as
``Plugin(Plugin.Config(...))``; its settings are validated before any weight loads, so importing its module
must be cheap.  ``rlnsp.testing`` holds a conformance test for each seam.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from torch import Generator, Tensor, nn
    from torch.nn import Parameter

    from rlnsp.declaration import Declaration
    from rlnsp.types import Batch, Condition, Explanation, Sample, Scene, Scores, Trajectory, Video

Stats = Mapping[str, float]


class Policy(Protocol):
    """A video generator that denoises packed latents by a velocity."""

    def encode(self, scenes: Sequence[Scene]) -> Condition:
        """A row a scene; with gradient to whatever trainable part makes it."""
        ...

    def sigmas(self, num_steps: int) -> Tensor:
        """(num_steps + 1,) fp32, the model's own schedule: from 1 (noise) down to 0 (data)."""
        ...

    def noise(self, n: int, generator: Generator) -> Tensor:
        """(n, N, C) fp32, standard normal."""
        ...

    def velocity(self, x: Tensor, sigma: Tensor, condition: Condition, guidance_scale: float = 1.0) -> Tensor:
        """(B, N, C) fp32, the model's noise - data at ``x`` (B, N, C), ``sigma`` (B,).

        With ``guidance_scale`` w other than 1: v(null) + w (v(condition) - v(null)).  Where the condition has
        latents that are known (``first``), their own noise - data: (x - first) / sigma.
        """
        ...

    def decode(self, x: Tensor, generator: Generator) -> Video:
        """Clips of denoised latents (B, N, C)."""
        ...

    def reference(self) -> AbstractContextManager[None]:
        """While open, ``velocity`` is that of the policy before RL (adapter off)."""
        ...

    def named_trainable(self) -> Iterator[tuple[str, Parameter]]:
        """The parameters that RL trains, by name.  At least one."""
        ...

    def encodes_with_trained_parts(self) -> bool:
        """True if training changes what ``encode`` returns: each micro-batch then asks anew, with gradient.

        Else a scene is encoded once an iteration, for its rollout and all that is trained on it.
        """
        ...

    def save_adapter(self, folder: Path) -> None:
        """Write what RL trained, in peft's format, loadable by peft alone."""
        ...

    def load_adapter(self, folder: Path) -> None:
        """Read what ``save_adapter`` wrote."""
        ...


@runtime_checkable
class EncodesVideo(Protocol):
    """What a policy adds that can also turn clips into latents; the data's own loss needs it."""

    def encode_video(self, frames: np.ndarray, generator: Generator | None = None) -> Tensor:
        """(B, N, C) fp32, the latents that ``decode`` makes ``frames`` (B, F, H, W, 3) of; uint8.

        With a ``generator`` a draw, where the encoder has a distribution.
        """
        ...


@runtime_checkable
class HasStockPipeline(Protocol):
    """What a policy adds whose model has a published pipeline; ``rlnsp check`` compares samples with it."""

    def stock_latents(
        self, x: Tensor, condition: Condition, num_steps: int, guidance_scale: float = 1.0
    ) -> Tensor:
        """(B, N, C) fp32, what that pipeline makes of the noise ``x``, by its own schedule and steps.

        It must share no code with ``sigmas`` and ``velocity`` but the network.
        """
        ...


@runtime_checkable
class Exports(Protocol):
    """What a policy adds that can be written whole, what RL trained merged in; ``rlnsp export`` does."""

    def export(self, folder: Path) -> Mapping[str, Any]:
        """Fill ``folder`` with the policy as it is, each part in its own library's layout.

        Returns:
            The policy's settings, as its ``Config`` takes them, that open the folder; all but its place.
        """
        ...


@runtime_checkable
class Shards(Protocol):
    """What a policy adds whose frozen weights several devices can hold together."""

    def shards(self) -> Sequence[nn.Module]:
        """The modules whose frozen weights may be spread, the inner before the outer; the outer ones last.

        A forward of an outer one must be a forward of all that are in it.
        """
        ...


@runtime_checkable
class SplitsTokens(Protocol):
    """What a policy adds whose model several processes can call together, each for some of the tokens."""

    def split_tokens(self, count: int) -> None:
        """From now on each ``count`` processes in a row make every call of ``velocity`` together, and alike.

        Each gets all of the velocity.  Of a gradient each gets a part; their sum is the whole.

        Raises:
            ConfigError: the tokens cannot be shared by so many.
        """
        ...


class Reward(Protocol):
    """A score for each sample, higher is better.  It sees whole groups, so it may compare."""

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float | BaseException | None]:
        """One number a sample, in order; None, or an exception, where the sample could not be scored.

        None and ``Unscored`` leave the sample out; another exception is a failure of the reward.
        """
        ...


@runtime_checkable
class Declares(Protocol):
    """What a reward adds that says what it needs and how it scores; by ``rlnsp.declaration.declares``."""

    declaration: Declaration


@runtime_checkable
class ChecksScenes(Protocol):
    """What a reward, or a policy, adds that looks at the scenes before anything is generated."""

    def check_scenes(self, scenes: Sequence[Scene]) -> None:
        """Raise ValueError, in one line with the remedy, if it could not score, or make, a clip of one."""
        ...


@runtime_checkable
class KeepsRecord(Protocol):
    """What a reward adds that keeps files with a run: what it scored by, or what it need not ask again."""

    def keep_in(self, folder: Path) -> None:
        """Use this folder of the run's from now on; called before anything is scored.

        It is there already where the run goes on.  Several processes may be given the same one.

        Raises:
            ValueError: in one line with the remedy, if what is kept there was made by another reward.
        """
        ...


@runtime_checkable
class Explains(Protocol):
    """What a reward adds that can say why.  Asked about few samples, those that people will look at."""

    def explain(self, samples: Sequence[Sample]) -> Sequence[Explanation | None]:
        """One explanation a sample, in order; None where there is nothing to say."""
        ...


class Algorithm(Protocol):
    """Turns scored trajectories into a loss.  Built as ``Algorithm(config, sampler)``, a SamplerConfig."""

    def credit(self, trajectory: Trajectory, scores: Scores) -> tuple[Batch, Stats]:
        """The transitions to train on, each with its advantage, and what to log of it.

        Scores are of all samples, latents of those that this process made (``Trajectory.found``); ``total``
        counts the transitions of all.
        """
        ...

    def anchor(self, policy: Policy, batch: Batch) -> Tensor:
        """(T, N, C): what ``loss`` measures the policy's movement from, of the policy that sampled."""
        ...

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Stats]:
        """The mean loss over the transitions of a micro-batch, and what to log of it."""
        ...


@runtime_checkable
class SamplesWithAverage(Protocol):
    """What an algorithm adds whose samples, and anchors, are those of an average of the weights."""

    def decay(self, iteration: int) -> float:
        """Of the average, after ``iteration``; 0: the weights as they are."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """What an algorithm adds that keeps something from one iteration to the next; checkpoints hold it."""

    def state(self) -> Mapping[str, Any]:
        """A copy of all of it, as JSON."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` gave."""
        ...
