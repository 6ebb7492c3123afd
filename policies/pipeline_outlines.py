"""LTX-Video and Wan2.1 without weights."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor
from transformers import T5EncoderModel, UMT5EncoderModel

from policies import ltx, outlines
from policies.latents import latent_grid
from policies.ltx_video.model import LTXVideoModel
from policies.ltx_video.policy import LTXVideoSettings
from policies.pipeline import geometry_of, source_of
from policies.wan.model import WanModel
from policies.wan.policy import WanSettings
from rlnsp.plan.outline import Outline
from rlnsp.pretrained import DTYPES


def ltx_video(config: LTXVideoSettings) -> Outline:
    """Of LTXPipeline's parts."""
    kinds = {"text_encoder": T5EncoderModel, "vae": AutoencoderKLLTXVideo}
    parts, settings = _parts(config, kinds, DTYPES[config.dtype])
    patches = settings.get("patch_size", 1), settings.get("patch_size_t", 1)
    grid = ltx.grid_of(geometry_of(config), parts["vae"], patches)

    def model_of(blocks: int) -> LTXVideoModel:
        return LTXVideoModel(
            reader=outlines.text_encoder_only(parts["text_encoder"]),
            transformer=_transformer(LTXVideoTransformer3DModel, settings, config, blocks),
            vae=parts["vae"],
            scheduler=ltx.ltx_scheduler(),
            grid=grid,
            settings=config,
        )

    def pixels(model: LTXVideoModel, latents: Tensor) -> Tensor:
        at = latents.new_full((len(latents),), 0.0) if model.vae.config["timestep_conditioning"] else None
        return model.vae.decode(latents.to(DTYPES[config.dtype]), at, return_dict=False)[0]

    return _outline(
        config, settings, parts, model_of, pixels, LTXVideoTransformer3DModel, settings["caption_channels"]
    )


def wan(config: WanSettings) -> Outline:
    """Of WanPipeline's parts; the VAE is in fp32."""
    parts, settings = _parts(config, {"text_encoder": UMT5EncoderModel}, DTYPES[config.dtype])
    vae, _ = _parts(config, {"vae": AutoencoderKLWan}, torch.float32)
    parts |= vae
    patch_t, patch, _ = settings["patch_size"]
    grid = latent_grid(
        geometry_of(config),
        channels=parts["vae"].config["z_dim"],
        space=parts["vae"].config["scale_factor_spatial"],
        time=parts["vae"].config["scale_factor_temporal"],
        patch=patch,
        patch_t=patch_t,
    )

    def model_of(blocks: int) -> WanModel:
        return WanModel(
            reader=outlines.text_encoder_only(parts["text_encoder"]),
            transformer=_transformer(WanTransformer3DModel, settings, config, blocks),
            vae=parts["vae"],
            scheduler=FlowMatchEulerDiscreteScheduler(),
            grid=grid,
            settings=config,
        )

    def pixels(model: WanModel, latents: Tensor) -> Tensor:
        return model.vae.decode(latents, return_dict=False)[0]

    return _outline(config, settings, parts, model_of, pixels, WanTransformer3DModel, settings["text_dim"])


def _parts(config: Any, kinds: dict[str, Any], dtype: torch.dtype) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parts of these kinds, and the transformer's settings."""
    parts = {
        part: outlines.without_weights(kind, outlines.own_settings(source_of(config, part), part), dtype)
        for part, kind in kinds.items()
    }
    return parts, outlines.own_settings(source_of(config, "transformer"), "transformer")


def _transformer(kind: Any, settings: dict[str, Any], config: Any, blocks: int) -> Any:
    return outlines.without_weights(kind, {**settings, "num_layers": blocks}, DTYPES[config.dtype])


def _outline(
    config: Any,
    settings: dict[str, Any],
    parts: dict[str, Any],
    model_of: Any,
    pixels: Any,
    kind: Any,
    width: int,
) -> Outline:
    blocks = settings["num_layers"]
    return outlines.outline(
        model_of,
        config,
        blocks=blocks,
        parts={
            "text encoder": parts["text_encoder"],
            "transformer": _transformer(kind, settings, config, blocks),
            "VAE": parts["vae"],
        },
        condition=(config.max_length, width),
        condition_bytes=DTYPES[config.dtype].itemsize,  # as the text encoder says it
        reader=parts["text_encoder"].encoder.block,
        read_tokens=config.max_length,
        pixels=pixels,
    )
