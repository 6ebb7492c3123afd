"""Stage 0: diffusers' LTX VAE learns to encode and decode clips."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from torch import Tensor

from policies.latents import Geometry, to_pixels
from pretrain.clips import Clips
from pretrain.loop import HELD_OUT_ROWS, LoopConfig, fit
from rlnsp.settings import ConfigError


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The VAE's size and how it trains; sizes are those of ``AutoencoderKLLTXVideo``."""

    patch_size: int = 4
    latent_channels: int = 32
    encoder_channels: list[int] = field(default_factory=lambda: [32, 64, 128])
    decoder_channels: list[int] = field(default_factory=lambda: [64, 128])
    """A block a number; each halves (or doubles) height, width and time, with LTX 0.9.5's residual path."""
    layers_per_block: int = 1
    kl_weight: float = 1e-5
    """On the mean KL a latent dimension; a thousandth already collapses a small VAE."""
    colour_weight: float = 4.0
    """Extra weight of coloured pixels: things are small, and the wall is easy."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of each forward, by autocast.  auto: bf16 where the processor computes in it; it is slow elsewhere."""
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if len(self.encoder_channels) != len(self.decoder_channels) + 1:
            given = f"{len(self.encoder_channels)} and {len(self.decoder_channels)}"
            raise ConfigError(
                f"encoder_channels must have one number more than decoder_channels; got {given}"
            )
        given = self.decoder_channels
        if any(after != 2 * before for before, after in itertools.pairwise(given)):
            raise ConfigError(f"decoder_channels must double from each to the next, as LTX's do; got {given}")

    def check_geometry(self, geometry: Geometry) -> None:
        """Raise ConfigError unless a VAE of this size takes clips of that geometry."""
        time = 2 ** len(self.decoder_channels)
        space = self.patch_size * time
        if (geometry.num_frames - 1) % time:
            raise ConfigError(
                f"geometry.num_frames must be {time} k + 1 for this VAE; got {geometry.num_frames}"
            )
        if geometry.height % space or geometry.width % space:
            given = f"{geometry.height}x{geometry.width}"
            raise ConfigError(
                f"geometry.height and width must be multiples of {space} for this VAE; got {given}"
            )


def build_vae(config: VAEConfig) -> AutoencoderKLLTXVideo:
    """A randomly initialised VAE; seeded by the caller."""
    blocks = len(config.decoder_channels)
    layers = (config.layers_per_block,) * (blocks + 1)
    vae = AutoencoderKLLTXVideo(
        latent_channels=config.latent_channels,
        block_out_channels=tuple(config.encoder_channels),
        down_block_types=("LTXVideo095DownBlock3D",) * blocks,
        decoder_block_out_channels=tuple(config.decoder_channels),
        layers_per_block=layers,
        decoder_layers_per_block=layers,
        spatio_temporal_scaling=(True,) * blocks,
        decoder_spatio_temporal_scaling=(True,) * blocks,
        decoder_inject_noise=(False,) * (blocks + 1),
        downsample_type=("spatiotemporal",) * blocks,
        upsample_residual=(True,) * blocks,
        upsample_factor=(2,) * blocks,
        patch_size=config.patch_size,
        spatial_compression_ratio=config.patch_size * 2**blocks,
        temporal_compression_ratio=2**blocks,
    )
    # The posterior starts narrow: with a standard deviation of 1 its noise would hide what the mean says.
    vae.get_parameter("encoder.conv_out.conv.bias").data[-1] = -4.0
    return vae


def computes_in_bf16() -> bool:
    """True if this processor has instructions for bf16; others emulate it, many times slower than fp32."""
    has = torch.cpu.get_capabilities()
    return any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def train_vae(config: VAEConfig, train: Clips, heldout: Clips, folder: Path) -> AutoencoderKLLTXVideo:
    """Train, then set the per-channel statistics that latents are normalised by; the VAE is in eval mode."""
    torch.manual_seed(config.loop.seed)
    vae = build_vae(config).train()
    bf16 = config.precision == "bf16" or (config.precision == "auto" and computes_in_bf16())

    def loss_of(frames: np.ndarray, generator: torch.Generator | None) -> Tensor:
        pixels = to_pixels(frames)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            posterior = vae.encode(pixels, return_dict=False)[0]
            latents = posterior.mode() if generator is None else posterior.sample(generator)
            decoded = vae.decode(latents, return_dict=False)[0]
        error = decoded.float() - pixels
        chroma = (pixels - pixels.mean(1, keepdim=True)).norm(dim=1, keepdim=True)
        weight = 1 + config.colour_weight * (chroma > 0.3)
        kl = posterior.kl().sum() / posterior.mean.numel()
        return (weight * (error.abs() + error.square())).mean() + config.kl_weight * kl

    def heldout_loss() -> float:
        parts = range(0, min(HELD_OUT_ROWS, len(heldout.frames)), 32)
        return torch.stack([loss_of(heldout.frames[i : i + 32], None) for i in parts]).mean().item()

    fit(
        "vae",
        dict(vae.named_parameters()),
        lambda rows, generator: [loss_of(train.frames[rows.numpy()], generator)],
        heldout_loss,
        len(train.scenes),
        config.loop,
        folder,
    )
    vae.eval()
    mean, std = _statistics(vae, train.frames[:2048])
    vae.get_buffer("latents_mean").copy_(mean)
    vae.get_buffer("latents_std").copy_(std)
    return vae


@torch.no_grad()
def _statistics(vae: AutoencoderKLLTXVideo, frames: np.ndarray) -> tuple[Tensor, Tensor]:
    parts = [
        vae.encode(to_pixels(frames[i : i + 64]), return_dict=False)[0].mode()
        for i in range(0, len(frames), 64)
    ]
    latents = torch.cat(parts).transpose(0, 1).flatten(1)
    return latents.mean(1), latents.std(1)
