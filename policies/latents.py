"""Latents as every video policy has them: the grid of a clip, packing, pixels, draws.

Shapes: B clips, C latent channels, f, h, w latent frames, rows and columns; N packed tokens; F, H, W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from rlnsp.settings import ConfigError


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Size and rate of the clips."""

    num_frames: int
    height: int
    width: int
    fps: float

    def require(self, frames: np.ndarray) -> None:
        """Raise ConfigError unless ``frames`` (B, F, H, W, 3) are clips of this size."""
        if frames.shape[1:4] != (self.num_frames, self.height, self.width):
            raise ConfigError(
                f"a clip has {frames.shape[1]} frames of {frames.shape[2]}x{frames.shape[3]}, but the policy "
                f"makes {self.num_frames} of {self.height}x{self.width}; give clips of that size"
            )


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A clip's latent before packing, (channels, frames, height, width), and the DiT's patches of it."""

    channels: int
    frames: int
    height: int
    width: int
    patch: int = 1
    patch_t: int = 1

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(C, f, h, w)."""
        return self.channels, self.frames, self.height, self.width

    @property
    def tokens(self) -> tuple[int, int, int]:
        """Tokens along frames, height and width; their product is N."""
        return self.frames // self.patch_t, self.height // self.patch, self.width // self.patch

    @property
    def frame_tokens(self) -> int:
        """Tokens of a latent frame, or of ``patch_t`` of them; the first so many are the clip's first."""
        return self.tokens[1] * self.tokens[2]

    @property
    def num_tokens(self) -> int:
        """N."""
        return int(np.prod(self.tokens))


def latent_grid(
    geometry: Geometry, *, channels: int, space: int, time: int, patch: int = 1, patch_t: int = 1
) -> Grid:
    """The latent grid of clips of ``geometry``.

    Args:
        geometry: of the clips.
        channels: of a latent.
        space: pixels along the edge of a latent.
        time: frames of a latent frame; the first has one alone.
        patch: latents along the edge of a token.
        patch_t: latent frames of a token.

    Raises:
        ConfigError: the VAE or the DiT's patches do not divide the clip.
    """
    f = (geometry.num_frames - 1) // time + 1
    if (geometry.num_frames - 1) % time or f % patch_t:
        raise ConfigError(
            f"policy: num_frames={geometry.num_frames}: this VAE wants {time} k + 1 "
            f"(patches of {patch_t} in time)."
        )
    for name, size in (("height", geometry.height), ("width", geometry.width)):
        if size <= 0 or size % (space * patch):
            raise ConfigError(f"policy: {name}={size}: this VAE and DiT want a multiple of {space * patch}.")
    h, w = geometry.height // space, geometry.width // space
    return Grid(channels=channels, frames=f, height=h, width=w, patch=patch, patch_t=patch_t)


def pack(latents: Tensor, grid: Grid) -> Tensor:
    """(B, N, C p_t p p) of (B, C, f, h, w)."""
    (f, h, w), p, p_t = grid.tokens, grid.patch, grid.patch_t
    x = latents.reshape(len(latents), grid.channels, f, p_t, h, p, w, p)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4, 7).flatten(1, 3)


def unpack(tokens: Tensor, grid: Grid) -> Tensor:
    """(B, C, f, h, w) of packed ``tokens``; the inverse of ``pack``."""
    (f, h, w), p, p_t = grid.tokens, grid.patch, grid.patch_t
    x = tokens.reshape(len(tokens), f, h, w, grid.channels, p_t, p, p)
    return x.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(len(tokens), *grid.shape)


def to_pixels(frames: np.ndarray) -> Tensor:
    """(B, 3, F, H, W) fp32 in [-1, 1] of uint8 (B, F, H, W, 3)."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def from_pixels(pixels: Tensor) -> np.ndarray:
    """uint8 (B, F, H, W, 3) of (B, 3, F, H, W) in [-1, 1]; values outside are clamped."""
    return to_bytes(pixels).cpu().numpy()


def to_bytes(pixels: Tensor) -> Tensor:
    """``from_pixels``, where ``pixels`` are."""
    x = ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round()
    return x.permute(0, 2, 3, 4, 1).to(torch.uint8)


def standard_normal(shape: tuple[int, ...], generator: Generator, device: torch.device) -> Tensor:
    """fp32 noise, drawn where ``generator`` lives."""
    return torch.randn(shape, generator=generator, device=generator.device).to(device)


def draw(posterior: Any, generator: Generator | None) -> Tensor:
    """The mean of a VAE's posterior, or with a ``generator`` a draw from it; fp32."""
    mean = posterior.mean.float()
    if generator is None:
        return mean
    return mean + posterior.std.float() * standard_normal(tuple(mean.shape), generator, mean.device)
