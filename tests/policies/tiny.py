"""A unified policy of random weights, small enough for a test: every part in its hub's own layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from policies.latents import Geometry
from policies.ltx import ltx_scheduler
from policies.unified.comprehension import Comprehension
from policies.unified.connector import Connector, new_connector
from policies.unified.model import UnifiedModel
from policies.unified.weights import save_policy
from pretrain.tokenizer import SPECIAL, byte_tokenizer

WIDTH, CAPTION_CHANNELS, QUERIES = 32, 24, 4
GEOMETRY = Geometry(num_frames=5, height=32, width=64, fps=8.0)


def comprehension() -> Comprehension:
    """Qwen2.5-VL of two layers with a vision tower of two."""
    text: dict[str, Any] = {
        "vocab_size": len(SPECIAL) + 256,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "initializer_range": 0.2,
    }
    vision: dict[str, Any] = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "patch_size": 8,
        "window_size": 32,
        "fullatt_block_indexes": [1],
        "out_hidden_size": WIDTH,
        "initializer_range": 0.2,
    }
    ids = {
        name: SPECIAL.index(f"<|{name}|>")
        for name in ("vision_start", "vision_end", "image_pad", "video_pad")
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        tie_word_embeddings=True,
    )
    images = Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, min_pixels=256, max_pixels=4096)
    return Comprehension(Qwen2_5_VLForConditionalGeneration(config), byte_tokenizer(), images)


def transformer() -> LTXVideoTransformer3DModel:
    """LTX's DiT, two layers of width 32; nothing in it is zero at the start."""
    return LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=CAPTION_CHANNELS,
    )


def vae(*, timestep_conditioning: bool = False) -> AutoencoderKLLTXVideo:
    """LTX's VAE: 4x in time, 8x in space, 8 latent channels, with some mean and deviation."""
    made = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        patch_size=2,
        timestep_conditioning=timestep_conditioning,
    )
    made.get_buffer("latents_mean").copy_(torch.linspace(-0.5, 0.5, 8))
    made.get_buffer("latents_std").copy_(torch.linspace(0.5, 2.0, 8))
    return made


def connector() -> Connector:
    """Four queries."""
    return new_connector(num_queries=QUERIES, width=WIDTH, out=CAPTION_CHANNELS, hidden=16)


def make_model(seed: int = 0, *, timestep_conditioning: bool = False) -> UnifiedModel:
    """The whole model, the same for the same seed; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UnifiedModel(
            comprehension=comprehension(),
            connector=connector(),
            transformer=transformer(),
            vae=vae(timestep_conditioning=timestep_conditioning),
            scheduler=ltx_scheduler(),
            geometry=GEOMETRY,
        )


def save_model(model: UnifiedModel, folder: Path, *, half: bool = False) -> Path:
    """``model`` as a policy folder."""
    assert isinstance(model.transformer, LTXVideoTransformer3DModel)
    save_policy(
        folder,
        geometry=model.geometry,
        comprehension=model.comprehension,
        transformer=model.transformer,
        vae=model.vae,
        scheduler=model.scheduler,
        connector=model.connector,
        half=half,
    )
    return folder


def make_policy_folder(folder: Path, seed: int = 0, *, half: bool = False) -> Path:
    """A policy folder of random weights at ``folder``."""
    return save_model(make_model(seed), folder, half=half)
