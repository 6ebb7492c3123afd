"""A policy small enough for tests, with everything that the real one has but knowledge."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn
from torch.nn import Parameter

from rlnsp.settings import require
from rlnsp.types import Condition, Scene, Video

PATCH = 4
"""Pixels along the edge of what one latent token shows."""


class ToyPolicy:
    """Gaussian data by its exact velocity, plus a small network whose last layer starts at zero: the adapter.

    Data latents are independent normals of mean 0 and a given std; for those the velocity is known.  A token
    is a square of one colour, its channels red, green and blue through a sigmoid.  Scenes differ by a hash of
    their context, which only the network sees.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes are kept tiny on purpose."""

        frames: int = 2
        side: int = 4
        """Tokens along the edge of a frame."""
        width: int = 8
        """Of the network and of the condition."""
        data_std: float = 0.5
        train_encoder: bool = False
        """Train what makes the condition, too."""
        seed: int = 0
        """Of the network's first weights."""

    channels = 3

    def __init__(self, config: Config) -> None:
        self.config = config
        generator = torch.Generator().manual_seed(config.seed)
        width = config.width
        self.network = _Network(self.channels, width)
        for value in self.network.parameters():
            value.data.normal_(generator=generator).mul_(width**-0.5)
        for value in self.network.outer.parameters():
            value.data.zero_()
        self.network.encoder.requires_grad_(config.train_encoder)
        self._first_encoder = self.network.encoder.weight.detach().clone()
        self._adapter_on = True

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.config.frames * self.config.side**2

    def encode(self, scenes: Sequence[Scene]) -> Condition:
        """One token a scene, from a hash of its context."""
        rows = torch.stack([self._features(scene.context) for scene in [*scenes, Scene(id="", context="")]])
        weight = self.network.encoder.weight if self._adapter_on else self._first_encoder
        embeds = nn.functional.linear(rows, weight)[:, None]
        mask = torch.ones(len(rows), 1, dtype=torch.bool)
        return Condition(embeds=embeds[:-1], mask=mask[:-1], null_embeds=embeds[-1:], null_mask=mask[-1:])

    def sigmas(self, num_steps: int) -> Tensor:
        """Evenly spaced."""
        return torch.linspace(1, 0, num_steps + 1)

    def noise(self, n: int, generator: Generator) -> Tensor:
        """(n, N, 3)."""
        return torch.randn(n, self.num_tokens, self.channels, generator=generator)

    def velocity(self, x: Tensor, sigma: Tensor, condition: Condition, guidance_scale: float = 1.0) -> Tensor:
        """The Gaussian's velocity plus the network's."""
        v = self._velocity(x, sigma, condition.embeds)
        if guidance_scale == 1.0:
            return v
        null = self._velocity(x, sigma, condition.null_embeds.expand(len(x), -1, -1))
        return null + guidance_scale * (v - null)

    def decode(self, x: Tensor, generator: Generator) -> Video:
        """Squares of flat colour; nothing is drawn from the generator."""
        side = self.config.side
        colours = (x.float().sigmoid() * 255).round().to(torch.uint8)
        grid = colours.reshape(len(x), self.config.frames, side, side, self.channels)
        frames = grid.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
        return Video(frames=frames.numpy(), fps=8.0)

    def encode_video(self, frames: np.ndarray, generator: Generator | None = None) -> Tensor:
        """The latents whose squares have the clips' mean colours; nothing is drawn."""
        b, f, h, w, c = frames.shape
        edge = self.config.side * PATCH
        require(
            (f, h, w) == (self.config.frames, edge, edge),
            f"a clip has {f} frames of {h}x{w}, but the policy makes {self.config.frames} of {edge}x{edge}; "
            "give clips of that size",
        )
        squares = torch.from_numpy(frames).float().reshape(b, f, h // PATCH, PATCH, w // PATCH, PATCH, c)
        return (squares.mean((3, 5)) / 255).flatten(1, 3).logit(1 / 510)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """The Gaussian alone, and the first encoder."""
        before, self._adapter_on = self._adapter_on, False
        try:
            yield
        finally:
            self._adapter_on = before

    def named_trainable(self) -> Iterator[tuple[str, Parameter]]:
        """The network's weights; the encoder's only if it is trained."""
        return ((name, value) for name, value in self.network.named_parameters() if value.requires_grad)

    def encodes_with_trained_parts(self) -> bool:
        """As the config says."""
        return self.config.train_encoder

    def save_adapter(self, folder: Path) -> None:
        """A safetensors file; of peft's format it has the name alone."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().contiguous() for name, value in self.named_trainable()}
        save_file(weights, folder / "adapter_model.safetensors")

    def load_adapter(self, folder: Path) -> None:
        """What ``save_adapter`` wrote."""
        self.network.load_state_dict(load_file(folder / "adapter_model.safetensors"), strict=False)

    def _features(self, context: str) -> Tensor:
        seed = int.from_bytes(hashlib.sha256(context.encode()).digest()[:7], "big")
        return torch.randn(self.config.width, generator=torch.Generator().manual_seed(seed))

    def _velocity(self, x: Tensor, sigma: Tensor, embeds: Tensor) -> Tensor:
        # x = (1 - s) x0 + s noise with x0 ~ N(0, d^2): E[noise - x0 | x] = (s - (1 - s) d^2) x / var(x)
        s, variance = sigma.reshape(-1, 1, 1), self.config.data_std**2
        known = (s - (1 - s) * variance) / ((1 - s) ** 2 * variance + s**2) * x
        if not self._adapter_on:
            return known.float()
        shape = (*x.shape[:2], -1)
        seen = torch.cat([x, s.expand(shape), embeds.mean(1, keepdim=True).expand(shape)], -1)
        return (known + self.network.outer(self.network.inner(seen).tanh())).float()


class _Network(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(width, width, bias=False)
        self.inner = nn.Linear(channels + 1 + width, width)
        self.outer = nn.Linear(width, channels)
