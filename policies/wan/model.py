"""Wan2.1's parts, used as diffusers' WanPipeline uses them.  Shapes as in ``policies.pipeline``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Generator, Tensor, nn
from transformers import UMT5EncoderModel

from policies.autocast import autocast
from policies.latents import Grid, draw, from_pixels, latent_grid, pack, to_pixels, unpack
from policies.loading import load_diffusers, require_fit, where
from policies.pipeline import (
    PipelineModel,
    Sampler,
    geometry_of,
    load_text_encoder,
    load_tokenizer,
    read_index,
    source_of,
)
from policies.stock import EvenEuler, wan_latents
from policies.wan.policy import WanSettings
from rlnsp.pretrained import DTYPES, load
from rlnsp.settings import ConfigError, require
from rlnsp.types import Condition


class WanModel(PipelineModel):
    """UMT5, and Wan's transformer and VAE."""

    settings: WanSettings
    vae: AutoencoderKLWan

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Padding is zeros, which the transformer attends to like anything else."""
        embeds, _ = self.reader.encode_prompt(
            list(texts), do_classifier_free_guidance=False, max_sequence_length=self.settings.max_length
        )
        return embeds, torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)

    def stock_pipeline(self, transformer: Any) -> WanPipeline:
        """With the scheduler that the folder came with, and the shift of the settings."""
        return WanPipeline(
            tokenizer=self.reader.tokenizer,
            text_encoder=self.reader.text_encoder,
            vae=self.vae,
            scheduler=stock_scheduler(self.settings),
            transformer=transformer,
        )

    def stock_sampler(self, transformer: nn.Module) -> Sampler:
        """WanPipeline's with Euler's scheduler, since the multistep one that it has is of another order."""
        pipeline = self.stock_pipeline(transformer)
        kind = EvenEuler if self.settings.spacing == "wan" else FlowMatchEulerDiscreteScheduler
        pipeline.scheduler = kind(shift=self.scheduler.config["shift"])
        return partial(
            wan_latents,
            pipeline=pipeline,
            geometry=self.geometry,
            grid=self.grid,
            dtype=self.compute_dtype,
        )

    def sigmas(self, num_steps: int) -> Tensor:
        """Shifted by ``flow_shift``; see ``WanSettings.spacing``."""
        return schedule(self.scheduler, num_steps, even=self.settings.spacing == "wan")

    def velocity(self, x: Tensor, sigma: Tensor, condition: Condition, guidance_scale: float) -> Tensor:
        """Guidance takes a second call."""
        latents = unpack(x, self.grid).to(self.compute_dtype)
        timestep = sigma * self.scheduler.config["num_train_timesteps"]
        v = self._forward(latents, timestep, condition.embeds)
        if guidance_scale != 1.0:
            null = self._forward(latents, timestep, condition.null_embeds.expand(len(x), -1, -1))
            v = null + guidance_scale * (v - null)
        return pack(v, self.grid)

    def _forward(self, latents: Tensor, timestep: Tensor, embeds: Tensor) -> Tensor:
        with autocast(latents.device, self.compute_dtype):
            return self.transformer(
                hidden_states=latents,
                timestep=timestep,
                encoder_hidden_states=embeds.to(self.compute_dtype),
                return_dict=False,
            )[0].float()

    @torch.no_grad()
    def encode(self, frames: np.ndarray, generator: Generator | None) -> Tensor:
        """Normalised by the VAE's own mean and deviation."""
        pixels = to_pixels(frames).to(self.device, self.vae.dtype)
        latents = draw(self.vae.encode(pixels, return_dict=False)[0], generator)
        mean, std = _moments(self.vae, latents)
        return pack((latents - mean) / std, self.grid)

    @torch.no_grad()
    def decode(self, x: Tensor, generator: Generator) -> np.ndarray:
        """Nothing is drawn from the generator."""
        latents = unpack(x.float(), self.grid)
        mean, std = _moments(self.vae, latents)
        parts = (latents * std + mean).to(self.vae.dtype).split(self.settings.decode_batch_size)
        return np.concatenate([from_pixels(self.vae.decode(part, return_dict=False)[0]) for part in parts])


def schedule(scheduler: FlowMatchEulerDiscreteScheduler, num_steps: int, *, even: bool) -> Tensor:
    """(num_steps + 1,) fp32 from 1 to 0: sigma = shift s / (1 + (shift - 1) s) of s = 1 - i / num_steps.

    Args:
        scheduler: with its shift.
        num_steps: at least 1.
        even: if not, s goes from 1 to the shifted value of its last training step, and then to 0.
    """
    require(num_steps >= 1, f"num_steps={num_steps}: must be at least 1.")
    if even:
        spaced: Any = np.linspace(1.0, 1 / num_steps, num_steps)
        scheduler.set_timesteps(sigmas=spaced)
    else:
        scheduler.set_timesteps(num_steps)
    sigmas: Any = scheduler.sigmas
    return sigmas.float().cpu()


def load_model(settings: WanSettings) -> WanModel:
    """The model that ``settings`` describe, on the CPU, nothing in it trainable.

    Raises:
        ConfigError: a missing or damaged file, or parts that do not fit together.
    """
    index = read_index(settings, ("WanPipeline",))
    if index.get("boundary_ratio") is not None or index.get("expand_timesteps"):
        raise ConfigError(
            f"policy.config.folder: {settings.folder} is Wan2.2, which has two transformers or a timestep a "
            "token; this policy is Wan2.1's. Give a Wan2.1 text-to-video pipeline."
        )
    transformer = load_diffusers(
        WanTransformer3DModel, source_of(settings, "transformer"), "transformer", DTYPES[settings.dtype]
    )
    # In fp32 whatever the rest: it is small, and bf16 shows in the pixels.
    vae = load_diffusers(AutoencoderKLWan, source_of(settings, "vae"), "vae", torch.float32)
    text_encoder = load_text_encoder(UMT5EncoderModel, settings)
    require_fit(
        (
            "text encoder's width",
            text_encoder.config.d_model,
            "transformer's text_dim",
            transformer.config["text_dim"],
        ),
        (
            "VAE's latent channels",
            vae.config["z_dim"],
            "transformer's in_channels",
            transformer.config["in_channels"],
        ),
    )
    tokenizer: Any = load_tokenizer(settings)
    unused: Any = None
    return WanModel(
        reader=WanPipeline(tokenizer=tokenizer, text_encoder=text_encoder, vae=unused, scheduler=unused),
        transformer=transformer,
        vae=vae,
        scheduler=_scheduler(settings),
        grid=_grid(settings, vae, transformer.config["patch_size"]),
        settings=settings,
    )


def stock_scheduler(settings: WanSettings) -> Any:
    """Of the class that the folder names, with the settings' shift where they have one."""
    stored = _stored_scheduler(settings)
    key = "flow_shift" if "flow_shift" in stored else "shift"
    return getattr(diffusers, stored["_class_name"]).from_config(
        stored if settings.flow_shift is None else {**stored, key: settings.flow_shift}
    )


def _stored_scheduler(settings: WanSettings) -> dict[str, Any]:
    path, how = where(source_of(settings, "scheduler"), "scheduler")
    return load("scheduler", path, lambda: FlowMatchEulerDiscreteScheduler.load_config(path, **how))


def _scheduler(settings: WanSettings) -> FlowMatchEulerDiscreteScheduler:
    """Euler's, with Wan's shift: the multistep scheduler that Wan comes with has no density a step."""
    stored = _stored_scheduler(settings)
    shift = settings.flow_shift or stored.get("flow_shift", stored.get("shift"))
    if shift is None:
        path = source_of(settings, "scheduler").path
        raise ConfigError(f"{path}: the scheduler has no flow_shift. Set policy.config.flow_shift.")
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=stored["num_train_timesteps"], shift=shift)


def _grid(settings: WanSettings, vae: AutoencoderKLWan, patches: tuple[int, int, int]) -> Grid:
    patch_t, patch, _ = patches
    return latent_grid(
        geometry_of(settings),
        channels=vae.config["z_dim"],
        space=vae.config["scale_factor_spatial"],
        time=vae.config["scale_factor_temporal"],
        patch=patch,
        patch_t=patch_t,
    )


def _moments(vae: AutoencoderKLWan, latents: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (
        latents.new_tensor(vae.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std")
    )
    return mean, std
