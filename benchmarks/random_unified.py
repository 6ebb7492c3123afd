"""The unified model with random weights, drawn where it will run: nothing is downloaded, and nothing written.

Its parts have the settings that a config of the policy names: those published, or a folder's ``config.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from tokenizers import pre_tokenizers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from policies.ltx import ltx_scheduler
from policies.outlines import own_settings
from policies.published import LTX_2B, LTX_VAE, QWEN_7B
from policies.unified import Unified
from policies.unified.comprehension import Comprehension
from policies.unified.model import UnifiedModel
from policies.unified.weights import assemble, need, parts_of
from pretrain.tokenizer import CHAT_TEMPLATE, SPECIAL
from rlnsp.pretrained import DTYPES, device_of

SPECIAL_IDS = {
    token: QWEN_7B[f"{name}_id"]
    for token, name in (
        ("<|endoftext|>", "bos_token"),
        ("<|im_end|>", "eos_token"),
        ("<|vision_start|>", "vision_start_token"),
        ("<|vision_end|>", "vision_end_token"),
        ("<|image_pad|>", "image_token"),
        ("<|video_pad|>", "video_token"),
    )
} | {"<|im_start|>": 151644}
"""Qwen's own."""
SMALL: dict[str, dict[str, Any]] = {
    "comprehension": {
        **QWEN_7B,
        "hidden_size": 32,
        "intermediate_size": 48,
        "max_window_layers": 2,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
        "vision_config": {
            **QWEN_7B["vision_config"],
            "depth": 2,
            "fullatt_block_indexes": [1],
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 4,
            "out_hidden_size": 32,
        },
    },
    "transformer": {
        **LTX_2B,
        "attention_head_dim": 16,
        "caption_channels": 32,
        "cross_attention_dim": 32,
        "in_channels": 8,
        "num_attention_heads": 2,
        "num_layers": 3,
        "out_channels": 8,
    },
    "vae": {
        **LTX_VAE,
        "block_out_channels": [8, 8, 8, 8],
        "decoder_block_out_channels": [8, 8, 8, 8],
        "decoder_layers_per_block": [1, 1, 1, 1, 1],
        "latent_channels": 8,
        "layers_per_block": [1, 1, 1, 1, 1],
    },
}
"""The published settings with small widths: the same classes, code paths, vocabulary and compression."""


def write_settings(folder: Path, parts: dict[str, dict[str, Any]]) -> list[str]:
    """A ``config.json`` a part, without weights; the overrides by which a config names them."""
    overrides = []
    for part, settings in parts.items():
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(settings))
        overrides += [f"policy.config.{part}.path={folder}", f"policy.config.{part}.subfolder={part}"]
    return overrides


def random_unified(config: Unified.Config, seed: int = 0) -> UnifiedModel:
    """The model that ``config`` describes, on its device and in its precision from the first number on.

    Weights are as the libraries initialise them, so that activations stay finite.  Qwen reads bytes, with
    its own special tokens at their own ids.  The schedule is LTX-Video's.

    Raises:
        ConfigError: settings of a part that are not known, or parts that do not fit together.
    """
    _, sources = parts_of(config)
    device = device_of(config.device)
    settings = {part: own_settings(need(sources, part), part) for part in SMALL}
    with _drawn_there(device, DTYPES[config.dtype], seed):
        own: Any = Qwen2_5_VLConfig.from_dict(settings["comprehension"])
        qwen = Qwen2_5_VLForConditionalGeneration(own)
        transformer: Any = LTXVideoTransformer3DModel.from_config(settings["transformer"])
        vae: Any = AutoencoderKLLTXVideo.from_config(settings["vae"])
    return assemble(
        config,
        comprehension=Comprehension(qwen, bytes_for_qwen(), Qwen2VLImageProcessorPil(), config.limits),
        transformer=transformer.eval(),
        vae=vae.eval(),
        scheduler=ltx_scheduler(),
    )


def bytes_for_qwen() -> Qwen2Tokenizer:
    """A token a byte, and Qwen2.5-VL's special tokens at the ids that its settings have."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate(alphabet)} | SPECIAL_IDS
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], additional_special_tokens=list(SPECIAL[1:]))
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@contextmanager
def _drawn_there(device: torch.device, dtype: torch.dtype, seed: int) -> Iterator[None]:
    """Tensors made inside are on ``device`` and in ``dtype``; global generators stay as they were."""
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
