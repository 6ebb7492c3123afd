"""LTX-Video's DiT, VAE and schedule, used as diffusers' LTXPipeline uses them.

Shapes: B clips, N latent tokens, C their channels; f, h, w latent frames, rows and columns; F, H, W pixels.
Conventions: sigma is 1 at noise and 0 at data; the DiT answers noise - data.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Generator, Tensor, nn

from policies.autocast import autocast
from policies.latents import (
    Geometry,
    Grid,
    draw,
    from_pixels,
    latent_grid,
    pack,
    standard_normal,
    to_pixels,
    unpack,
)
from rlnsp.settings import ConfigError
from rlnsp.types import Condition


def grid_of(geometry: Geometry, vae: AutoencoderKLLTXVideo, patches: tuple[int, int]) -> Grid:
    """The latent grid of clips of ``geometry``; ``patches`` are the DiT's, in space and in time.

    Raises:
        ConfigError: the VAE or the DiT's patches do not divide the clip.
    """
    space, time = vae.spatial_compression_ratio, vae.temporal_compression_ratio
    channels, (patch, patch_t) = vae.config["latent_channels"], patches
    return latent_grid(geometry, channels=channels, space=space, time=time, patch=patch, patch_t=patch_t)


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


def velocity(
    transformer: nn.Module,
    x: Tensor,
    sigma: Tensor,
    condition: Condition,
    guidance_scale: float,
    *,
    tokens: tuple[int, int, int],
    rope: tuple[float, float, float],
    num_timesteps: int,
    dtype: torch.dtype,
) -> Tensor:
    """(B, N, C) fp32, the DiT's noise - data at ``x`` (B, N, C) and ``sigma`` (B,).

    With ``guidance_scale`` w other than 1, v(null) + w (v(condition) - v(null)) from one batched call.

    Latents that the condition knows are seen as they are, at sigma 0 (arXiv:2501.00103, image conditioning),
    and their velocity is that of known data, (x - first) / sigma: every step leads them to where they belong,
    and no weight has a part in it.

    Args:
        transformer: the DiT, with or without an adapter.
        x: packed latents.
        sigma: noise level; (B, N) where tokens have their own, which then are all to be made.
        condition: B rows.
        guidance_scale: w.
        tokens: along frames, height and width.
        rope: see ``rope_scale``.
        num_timesteps: what sigma 1 is to the DiT.
        dtype: of the forward.
    """
    embeds, mask, first = condition.embeds, condition.mask, condition.first
    seen, level = condition.given(x), sigma
    if first is not None:
        level = sigma[:, None].repeat(1, x.shape[1])
        level[:, : first.shape[1]] = 0
    guided = guidance_scale != 1.0
    if guided:
        n = len(x)
        embeds = torch.cat([condition.null_embeds.expand(n, -1, -1), embeds])
        mask = torch.cat([condition.null_mask.expand(n, -1), mask])
        seen, level = torch.cat([seen, seen]), torch.cat([level, level])
    frames, height, width = tokens
    with autocast(x.device, dtype):
        v = transformer(
            hidden_states=seen.to(dtype),
            encoder_hidden_states=embeds.to(dtype),
            timestep=level * num_timesteps,
            encoder_attention_mask=mask,
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=rope,
            return_dict=False,
        )[0].float()
    if guided:
        v_null, v_condition = v.chunk(2)
        v = v_null + guidance_scale * (v_condition - v_null)
    if first is None:
        return v
    known = (x[:, : first.shape[1]] - first) / sigma[:, None, None]
    return torch.cat([known, v[:, first.shape[1] :]], 1)


@torch.no_grad()
def encode(
    frames: np.ndarray, vae: AutoencoderKLLTXVideo, grid: Grid, generator: Generator | None = None
) -> Tensor:
    """Packed, normalised latents (B, N, C) fp32 of uint8 (B, F, H, W, 3).

    The posterior's mean, or with a ``generator`` a draw from it.
    """
    pixels = to_pixels(frames).to(vae.device, vae.dtype)
    with torch.autocast(vae.device.type, enabled=False):  # as it decodes, whatever a denoiser runs in
        posterior = vae.encode(pixels, return_dict=False)[0]
    return pack(normalise(draw(posterior, generator), vae), grid)


@torch.no_grad()
def decode(
    x: Tensor,
    vae: AutoencoderKLLTXVideo,
    grid: Grid,
    generator: Generator,
    *,
    timestep: float,
    noise_scale: float,
    batch_size: int,
) -> np.ndarray:
    """uint8 (B, F, H, W, 3) of denoised latents (B, N, C), ``batch_size`` clips at a time.

    A VAE with timestep conditioning (LTX 0.9.5 on) is given ``noise_scale`` of noise and told ``timestep``,
    as LTXPipeline does; ``generator`` draws it, so the same one gives the same clip.
    """
    latents = denormalise(unpack(x.float(), grid), vae)
    conditioned = vae.config["timestep_conditioning"]
    if conditioned:
        noise = standard_normal(tuple(latents.shape), generator, latents.device)
        latents = (1 - noise_scale) * latents + noise_scale * noise
    clips = []
    for part in latents.to(vae.dtype).split(batch_size):
        at = part.new_full((len(part),), timestep) if conditioned else None
        clips.append(from_pixels(vae.decode(part, at, return_dict=False)[0]))
    return np.concatenate(clips)
