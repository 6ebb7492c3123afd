"""LTX's border: packing, schedule, latent normalisation and pixels, each as diffusers' LTXPipeline has it.

Shapes: B clips, C latent channels, f, h, w latent frames, rows and columns; N packed tokens; F, H, W pixels.
Conventions: sigma is 1 at noise and 0 at data; the DiT answers noise - data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Generator, Tensor

from rlnsp.settings import ConfigError


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Size and rate of the clips."""

    num_frames: int
    height: int
    width: int
    fps: float


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
    def num_tokens(self) -> int:
        """N."""
        return int(np.prod(self.tokens))


def latent_grid(geometry: Geometry, vae: AutoencoderKLLTXVideo, *, patch: int = 1, patch_t: int = 1) -> Grid:
    """The latent grid of clips of ``geometry``.

    Raises:
        ValueError: the VAE or the DiT's patches do not divide the clip.
    """
    s, t = vae.spatial_compression_ratio, vae.temporal_compression_ratio
    p, p_t = patch, patch_t
    f, h, w = (geometry.num_frames - 1) // t + 1, geometry.height // s, geometry.width // s
    if (geometry.num_frames - 1) % t or f % p_t:
        raise ValueError(
            f"num_frames={geometry.num_frames}: this VAE wants {t} k + 1 (patches of {p_t} in time)."
        )
    for name, size in (("height", geometry.height), ("width", geometry.width)):
        if size <= 0 or size % (s * p):
            raise ValueError(f"{name}={size}: this VAE and DiT want a multiple of {s * p}.")
    return Grid(channels=vae.config["latent_channels"], frames=f, height=h, width=w, patch=p, patch_t=p_t)


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


def ltx_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """A schedule with LTX-Video's own constants."""
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.95,
        max_shift=2.05,
        base_image_seq_len=1024,
        max_image_seq_len=4096,
        shift_terminal=0.1,
    )


def shift_exponent(scheduler: FlowMatchEulerDiscreteScheduler, num_tokens: int) -> float:
    """LTX's mu: sigma is shifted by e^mu, and mu is linear in the token count."""
    config = scheduler.config
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    # LTXPipeline's order of operations, so that not a bit differs.
    slope = (high - low) / (many - few)
    return num_tokens * slope + (low - slope * few)


def schedule(scheduler: FlowMatchEulerDiscreteScheduler, num_steps: int, num_tokens: int) -> Tensor:
    """(num_steps + 1,) fp32 from 1 to 0: LTX's, shifted by the token count, stretched to its last sigma.

    Raises:
        ConfigError: no such schedule exists for ``num_steps``.
    """
    if num_steps < 1 or (num_steps == 1 and scheduler.config.get("shift_terminal")):
        raise ConfigError(
            f"num_steps={num_steps}: LTX's schedule, which ends on a set sigma, needs at least 2 steps."
        )
    mu = shift_exponent(scheduler, num_tokens)
    even = np.linspace(1.0, 1 / num_steps, num_steps)
    scheduler.set_timesteps(sigmas=even, mu=mu)  # pyright: ignore[reportArgumentType]
    sigmas: Any = scheduler.sigmas
    return sigmas.float().cpu()


def rope_scale(geometry: Geometry, vae: AutoencoderKLLTXVideo) -> tuple[float, float, float]:
    """Seconds a latent frame and pixels a latent row and column: what the DiT's rotary positions count in."""
    s = vae.spatial_compression_ratio
    return vae.temporal_compression_ratio / geometry.fps, s, s


def normalise(latents: Tensor, vae: AutoencoderKLLTXVideo) -> Tensor:
    """Latents (B, C, f, h, w) as the DiT sees them: each channel centred and scaled."""
    mean, std = _moments(latents, vae)
    return (latents - mean) * vae.config["scaling_factor"] / std


def denormalise(latents: Tensor, vae: AutoencoderKLLTXVideo) -> Tensor:
    """The inverse of ``normalise``."""
    mean, std = _moments(latents, vae)
    return latents * std / vae.config["scaling_factor"] + mean


def _moments(latents: Tensor, vae: AutoencoderKLLTXVideo) -> tuple[Tensor, Tensor]:
    mean, std = vae.get_buffer("latents_mean"), vae.get_buffer("latents_std")
    return mean.view(1, -1, 1, 1, 1).to(latents), std.view(1, -1, 1, 1, 1).to(latents)


def to_pixels(frames: np.ndarray) -> Tensor:
    """(B, 3, F, H, W) fp32 in [-1, 1] of uint8 (B, F, H, W, 3)."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def from_pixels(pixels: Tensor) -> np.ndarray:
    """uint8 (B, F, H, W, 3) of (B, 3, F, H, W) in [-1, 1]; values outside are clamped."""
    x = ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round()
    return x.permute(0, 2, 3, 4, 1).to(torch.uint8).cpu().numpy()


def standard_normal(shape: tuple[int, ...], generator: Generator, device: torch.device) -> Tensor:
    """fp32 noise, drawn where ``generator`` lives."""
    return torch.randn(shape, generator=generator, device=generator.device).to(device)
