"""An LTX-Video pipeline of random weights, of any size: nothing has to be downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.pipelines.ltx.pipeline_ltx import LTXPipeline
from transformers import T5Config, T5EncoderModel

from benchmarks.random_wan import letters, text_sizes
from policies.ltx import ltx_scheduler

SIZE_2B: dict[str, dict[str, Any]] = {
    "transformer": {
        "in_channels": 128,
        "out_channels": 128,
        "num_attention_heads": 32,
        "attention_head_dim": 64,
        "cross_attention_dim": 2048,
        "num_layers": 28,
        "caption_channels": 4096,
    },
    "vae": {},
}
"""LTX-Video 2B's own; diffusers' defaults of the VAE are those of its first release."""
SIZE_TINY: dict[str, dict[str, Any]] = {
    "transformer": {
        "in_channels": 8,
        "out_channels": 8,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "cross_attention_dim": 32,
        "num_layers": 2,
        "caption_channels": 24,
    },
    "vae": {
        "latent_channels": 8,
        "block_out_channels": (8, 8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8, 8),
        "layers_per_block": (1, 1, 1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1, 1, 1),
    },
}
"""With the VAE's own compression: 32 in space, 8 in time."""


def random_ltx(folder: Path, transformer: Mapping[str, Any], vae: Mapping[str, Any], seed: int = 0) -> None:
    """Write the pipeline into ``folder`` in bf16, with LTX-Video's schedule and a small text encoder.

    Args:
        folder: as diffusers lays it out; of the 2B model it takes 5 GB.
        transformer: sizes of an ``LTXVideoTransformer3DModel``.
        vae: sizes of an ``AutoencoderKLLTXVideo``.
        seed: of all weights.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"  # where two thousand million are drawn fast
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        parts: dict[str, Any] = {
            "transformer": LTXVideoTransformer3DModel(**transformer),
            "vae": AutoencoderKLLTXVideo(**vae),
            "text_encoder": T5EncoderModel(T5Config(**text_sizes(transformer["caption_channels"]))),
        }
    tokenizer: Any = letters()
    pipeline = LTXPipeline(scheduler=ltx_scheduler(), tokenizer=tokenizer, **parts)
    pipeline.to(torch.bfloat16).save_pretrained(folder)
