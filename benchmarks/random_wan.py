"""A Wan2.1 pipeline of random weights, of any size: nothing has to be downloaded."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

TINY_TRANSFORMER = {
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "text_dim": 64,
    "freq_dim": 128,
    "ffn_dim": 512,
    "num_layers": 4,
}
"""1.2 M parameters."""
TINY_VAE = {"base_dim": 9, "num_res_blocks": 1}
"""0.8 M parameters."""


def letters() -> T5Tokenizer:
    """T5's format, with a token a letter."""
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5Tokenizer(vocab=[*vocab, *((letter, -3.0) for letter in string.ascii_lowercase)], extra_ids=0)


def text_sizes(width: int) -> dict[str, Any]:
    """Of a T5 or UMT5 of two layers for ``letters``."""
    sizes = {"d_model": width, "d_kv": 8, "d_ff": 2 * width, "num_layers": 2, "num_heads": 4}
    return {"vocab_size": 32, "feed_forward_proj": "gated-gelu", **sizes}


def random_wan(transformer: Mapping[str, Any], vae: Mapping[str, Any], seed: int = 0) -> WanPipeline:
    """The pipeline, with the schedule of Wan2.1 1.3B; torch's global generator is left as it was.

    Args:
        transformer: sizes of a ``WanTransformer3DModel``; its channels are the VAE's.
        vae: sizes of an ``AutoencoderKLWan``.
        seed: of all weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        painter = AutoencoderKLWan(**vae)
        channels = painter.config["z_dim"]
        denoiser = WanTransformer3DModel(in_channels=channels, out_channels=channels, **transformer)
        reader = UMT5EncoderModel(UMT5Config(**text_sizes(transformer["text_dim"])))
    tokenizer: Any = letters()
    scheduler: Any = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return WanPipeline(
        tokenizer=tokenizer, text_encoder=reader, vae=painter, scheduler=scheduler, transformer=denoiser
    )
