"""What is published of the checkpoints that policies load: settings, number of parameters, sizes of files.

Hubs' own ``config.json`` where they are known, in the layout that they have there; else the settings that the
models' authors use to convert them.  Sizes are of the files that the hub serves; all are facts, not code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Part:
    """One checkpoint."""

    hub: str
    """Repository and folder."""
    library: Literal["diffusers", "transformers"]
    class_name: str
    config: Mapping[str, Any]
    dtype: Literal["fp32", "bf16"]
    """Of the published weights."""
    parameters: int | None
    """As published; None: no exact figure is."""
    source: str
    """Of the figure."""
    file_bytes: int | None = None
    """Of the only weight file, its header included, where it is one file."""
    shards: int = 1
    renamed: Mapping[str, str] = field(default_factory=dict)
    """How the hub's names begin where the library's now begin otherwise: now, there."""


LTX_2B = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 64,
    "attention_out_bias": True,
    "caption_channels": 4096,
    "cross_attention_dim": 2048,
    "in_channels": 128,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "num_attention_heads": 32,
    "num_layers": 28,
    "out_channels": 128,
    "patch_size": 1,
    "patch_size_t": 1,
    "qk_norm": "rms_norm_across_heads",
}
LTX_13B = {**LTX_2B, "attention_head_dim": 128, "cross_attention_dim": 4096, "num_layers": 48}
LTX_VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "decoder_causal": False,
    "encoder_causal": True,
    "in_channels": 3,
    "latent_channels": 128,
    "layers_per_block": [4, 3, 3, 3, 4],
    "out_channels": 3,
    "patch_size": 4,
    "patch_size_t": 1,
    "resnet_norm_eps": 1e-6,
    "scaling_factor": 1.0,
    "spatio_temporal_scaling": [True, True, True, False],
}
LTX_VAE_095 = {
    **LTX_VAE,
    "block_out_channels": [128, 256, 512, 1024, 2048],
    "decoder_block_out_channels": [256, 512, 1024],
    "decoder_inject_noise": [False, False, False, False],
    "decoder_layers_per_block": [5, 5, 5, 5],
    "decoder_spatio_temporal_scaling": [True, True, True],
    "down_block_types": ["LTXVideo095DownBlock3D"] * 4,
    "downsample_type": ["spatial", "temporal", "spatiotemporal", "spatiotemporal"],
    "layers_per_block": [4, 6, 6, 2, 2],
    "spatial_compression_ratio": 32,
    "spatio_temporal_scaling": [True, True, True, True],
    "temporal_compression_ratio": 8,
    "timestep_conditioning": True,
    "upsample_factor": [2, 2, 2],
    "upsample_residual": [True, True, True],
}
QWEN_7B: dict[str, Any] = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_token_id": 151654,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 128000,
    "max_window_layers": 28,
    "model_type": "qwen2_5_vl",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vision_config": {
        "depth": 32,
        "hidden_act": "silu",
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_chans": 3,
        "out_hidden_size": 3584,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vocab_size": 152064,
}
QWEN_3B: dict[str, Any] = {
    **QWEN_7B,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "max_window_layers": 70,
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "vision_config": {**QWEN_7B["vision_config"], "out_hidden_size": 2048},
    "vocab_size": 151936,
}
T5_XXL = {
    "architectures": ["T5EncoderModel"],
    "d_ff": 10240,
    "d_kv": 64,
    "d_model": 4096,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-6,
    "model_type": "t5",
    "num_decoder_layers": 24,
    "num_heads": 64,
    "num_layers": 24,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "vocab_size": 32128,
}
UMT5_XXL = {**T5_XXL, "architectures": ["UMT5EncoderModel"], "model_type": "umt5", "vocab_size": 256384}
WAN_1_3B = {
    "added_kv_proj_dim": None,
    "attention_head_dim": 128,
    "cross_attn_norm": True,
    "eps": 1e-6,
    "ffn_dim": 8960,
    "freq_dim": 256,
    "in_channels": 16,
    "num_attention_heads": 12,
    "num_layers": 30,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "qk_norm": "rms_norm_across_heads",
    "text_dim": 4096,
}
WAN_VAE = {"base_dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}

HUBS = {
    ("Qwen/Qwen2.5-VL-7B-Instruct", ""): "qwen",
    ("Qwen/Qwen2.5-VL-3B-Instruct", ""): "qwen_3b",
    ("Lightricks/LTX-Video", "transformer"): "ltx",
    ("Lightricks/LTX-Video", "vae"): "ltx_vae",
    ("Lightricks/LTX-Video", "text_encoder"): "t5",
    ("Lightricks/LTX-Video-0.9.5", "transformer"): "ltx",
    ("Lightricks/LTX-Video-0.9.5", "vae"): "ltx_vae_095",
    ("Lightricks/LTX-Video-0.9.5", "text_encoder"): "t5",
    ("Lightricks/LTX-Video-0.9.7-dev", "transformer"): "ltx_13b",
    ("Lightricks/LTX-Video-0.9.7-dev", "vae"): "ltx_vae_095",
    ("Lightricks/LTX-Video-0.9.7-dev", "text_encoder"): "t5",
    ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "transformer"): "wan",
    ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "vae"): "wan_vae",
    ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "text_encoder"): "umt5",
}
"""Which of ``PARTS`` a hub's repository and subfolder are."""

PARTS: dict[str, Part] = {
    "qwen": Part(
        hub="Qwen/Qwen2.5-VL-7B-Instruct",
        library="transformers",
        class_name="Qwen2_5_VLForConditionalGeneration",
        config=QWEN_7B,
        dtype="bf16",
        parameters=16_584_333_312 // 2,
        source="total_size of its index, 16,584,333,312 bytes of bf16",
        shards=5,
        renamed={"model.visual.": "visual.", "model.language_model.": "model."},
    ),
    "qwen_3b": Part(
        hub="Qwen/Qwen2.5-VL-3B-Instruct",
        library="transformers",
        class_name="Qwen2_5_VLForConditionalGeneration",
        config=QWEN_3B,
        dtype="bf16",
        parameters=3_754_622_976,
        source="3,754,622,976 parameters, as those who load it count",
        shards=2,
        renamed={"model.visual.": "visual.", "model.language_model.": "model."},
    ),
    "ltx": Part(
        hub="Lightricks/LTX-Video, transformer",
        library="diffusers",
        class_name="LTXVideoTransformer3DModel",
        config=LTX_2B,
        dtype="bf16",
        parameters=None,
        source="called 2B",
        shards=2,
    ),
    "ltx_13b": Part(
        hub="Lightricks/LTX-Video-0.9.7-dev, transformer",
        library="diffusers",
        class_name="LTXVideoTransformer3DModel",
        config=LTX_13B,
        dtype="bf16",
        parameters=None,
        source="called 13B",
        shards=6,
    ),
    "ltx_vae": Part(
        hub="Lightricks/LTX-Video, vae",
        library="diffusers",
        class_name="AutoencoderKLLTXVideo",
        config=LTX_VAE,
        dtype="fp32",
        parameters=None,
        source="its file, 1,676,798,532 bytes",
        file_bytes=1_676_798_532,
    ),
    "ltx_vae_095": Part(
        hub="Lightricks/LTX-Video-0.9.5 and 0.9.7-dev, vae",
        library="diffusers",
        class_name="AutoencoderKLLTXVideo",
        config=LTX_VAE_095,
        dtype="bf16",
        parameters=None,
        source="no figure known",
    ),
    "t5": Part(
        hub="Lightricks/LTX-Video, text_encoder (google/t5-v1_1-xxl)",
        library="transformers",
        class_name="T5EncoderModel",
        config=T5_XXL,
        dtype="fp32",
        parameters=19_049_242_624 // 4,
        source="total_size of its index, 19,049,242,624 bytes of fp32",
        shards=4,
    ),
    "wan": Part(
        hub="Wan-AI/Wan2.1-T2V-1.3B-Diffusers, transformer",
        library="diffusers",
        class_name="WanTransformer3DModel",
        config=WAN_1_3B,
        dtype="fp32",
        parameters=5_675_987_200 // 4,
        source="total_size of its index, 5,675,987,200 bytes of fp32",
        shards=2,
    ),
    "wan_vae": Part(
        hub="Wan-AI/Wan2.1-T2V-1.3B-Diffusers, vae",
        library="diffusers",
        class_name="AutoencoderKLWan",
        config=WAN_VAE,
        dtype="fp32",
        parameters=None,
        source="its file, 507,591,892 bytes",
        file_bytes=507_591_892,
    ),
    "umt5": Part(
        hub="Wan-AI/Wan2.1-T2V-1.3B-Diffusers, text_encoder",
        library="transformers",
        class_name="UMT5EncoderModel",
        config=UMT5_XXL,
        dtype="fp32",
        parameters=22_723_641_344 // 4,
        source="total_size of its index, 22,723,641,344 bytes of fp32",
        shards=5,
    ),
}
