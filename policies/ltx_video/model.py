"""LTX-Video's parts, used as diffusers' LTXPipeline uses them.  Shapes as in ``policies.pipeline``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.pipelines.ltx.pipeline_ltx import LTXPipeline
from torch import Generator, Tensor, nn
from transformers import T5EncoderModel

from policies import ltx
from policies.loading import load_diffusers, load_scheduler, require_fit
from policies.ltx_video.policy import LTXVideoSettings
from policies.pipeline import (
    PipelineModel,
    Sampler,
    geometry_of,
    load_text_encoder,
    load_tokenizer,
    read_index,
    source_of,
)
from policies.stock import ltx_latents
from rlnsp.pretrained import DTYPES
from rlnsp.types import Condition

PIPELINES = ("LTXPipeline", "LTXImageToVideoPipeline", "LTXConditionPipeline")
"""All of one set of parts."""


class LTXVideoModel(PipelineModel):
    """T5, and LTX-Video's DiT and VAE."""

    settings: LTXVideoSettings
    vae: AutoencoderKLLTXVideo

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Padding has no part in the DiT's attention, though it has in T5's."""
        embeds, mask, *_ = self.reader.encode_prompt(
            list(texts), do_classifier_free_guidance=False, max_sequence_length=self.settings.max_length
        )
        return embeds, mask

    def stock_pipeline(self, transformer: Any) -> LTXPipeline:
        """With the schedule that the folder came with."""
        return LTXPipeline(
            scheduler=self.scheduler,
            vae=self.vae,
            text_encoder=self.reader.text_encoder,
            tokenizer=self.reader.tokenizer,
            transformer=transformer,
        )

    def stock_sampler(self, transformer: nn.Module) -> Sampler:
        """LTXPipeline's."""
        pipeline = self.stock_pipeline(transformer)
        return partial(ltx_latents, pipeline=pipeline, geometry=self.geometry, dtype=self.compute_dtype)

    def sigmas(self, num_steps: int) -> Tensor:
        """Shifted by the number of tokens."""
        return ltx.schedule(self.scheduler, num_steps, self.grid.num_tokens)

    def velocity(self, x: Tensor, sigma: Tensor, condition: Condition, guidance_scale: float) -> Tensor:
        """Guidance takes one batched call."""
        return ltx.velocity(
            self.transformer,
            x,
            sigma,
            condition,
            guidance_scale,
            tokens=self.grid.tokens,
            rope=ltx.rope_scale(self.geometry, self.vae),
            num_timesteps=self.scheduler.config["num_train_timesteps"],
            dtype=self.compute_dtype,
        )

    def encode(self, frames: np.ndarray, generator: Generator | None) -> Tensor:
        """Normalised by the VAE's own mean and deviation."""
        return ltx.encode(frames, self.vae, self.grid, generator)

    def encode_first(self, frames: np.ndarray) -> Tensor:
        """(B, n, C) fp32, of clips of one frame (B, 1, H, W, 3): the latents of a clip's first n tokens."""
        return ltx.encode(frames, self.vae, replace(self.grid, frames=1))

    def decode(self, x: Tensor, generator: Generator) -> np.ndarray:
        """With a little noise, where the VAE is conditioned on it."""
        settings = self.settings
        return ltx.decode(
            x,
            self.vae,
            self.grid,
            generator,
            timestep=settings.decode_timestep,
            noise_scale=settings.decode_noise_scale,
            batch_size=settings.decode_batch_size,
        )


def load_model(settings: LTXVideoSettings) -> LTXVideoModel:
    """The model that ``settings`` describe, on the CPU, nothing in it trainable.

    Raises:
        ConfigError: a missing or damaged file, or parts that do not fit together.
    """
    read_index(settings, PIPELINES)
    dtype = DTYPES[settings.dtype]
    transformer = load_diffusers(
        LTXVideoTransformer3DModel, source_of(settings, "transformer"), "transformer", dtype
    )
    vae = load_diffusers(AutoencoderKLLTXVideo, source_of(settings, "vae"), "vae", dtype)
    text_encoder = load_text_encoder(T5EncoderModel, settings)
    dit, patch, patch_t = (
        transformer.config,
        transformer.config["patch_size"],
        transformer.config["patch_size_t"],
    )
    channels = vae.config["latent_channels"] * patch**2 * patch_t
    require_fit(
        (
            "text encoder's width",
            text_encoder.config.d_model,
            "transformer's caption_channels",
            dit["caption_channels"],
        ),
        ("VAE's latent channels in a patch", channels, "transformer's in_channels", dit["in_channels"]),
    )
    unused: Any = None
    return LTXVideoModel(
        reader=LTXPipeline(
            scheduler=unused,
            vae=unused,
            text_encoder=text_encoder,
            tokenizer=load_tokenizer(settings),
            transformer=unused,
        ),
        transformer=transformer,
        vae=vae,
        scheduler=load_scheduler(source_of(settings, "scheduler")),
        grid=ltx.grid_of(geometry_of(settings), vae, (patch, patch_t)),
        settings=settings,
    )
