"""Pipelines of random weights, small enough for a test, as folders that the libraries themselves saved."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.ltx.pipeline_ltx import LTXPipeline
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from transformers import T5Config, T5EncoderModel, T5Tokenizer, UMT5Config, UMT5EncoderModel

from policies.ltx import ltx_scheduler
from rlnsp.types import Scene
from tests.policies import tiny

SIZE: dict[str, Any] = {"num_frames": 5, "height": 32, "width": 64, "fps": 8.0, "max_length": 24}
SCENES = [Scene(id="a", context="a ball rolls"), Scene(id="b", context="the lamp is lit")]


def tokenizer() -> T5Tokenizer:
    """T5's format, with a token a letter."""
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5Tokenizer(vocab=[*vocab, *((letter, -3.0) for letter in string.ascii_lowercase)], extra_ids=0)


def text_config(width: int) -> dict[str, Any]:
    """Of a T5 or UMT5 of two layers."""
    sizes = {"d_model": width, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    return {"vocab_size": 32, "feed_forward_proj": "gated-gelu", **sizes}


def ltx() -> LTXPipeline:
    """LTX's own constants, and the DiT and VAE of the unified policy's tests."""
    return LTXPipeline(
        scheduler=ltx_scheduler(),
        vae=tiny.vae(),
        text_encoder=T5EncoderModel(T5Config(**text_config(tiny.CAPTION_CHANNELS))),
        tokenizer=tokenizer(),
        transformer=tiny.transformer(),
    )


def wan_transformer(**sizes: int) -> WanTransformer3DModel:
    """Two layers of width 32, unless told otherwise."""
    given: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 24,
        "freq_dim": 16,
        "ffn_dim": 48,
        "num_layers": 2,
        **sizes,
    }
    return WanTransformer3DModel(**given)


def wan_vae(**sizes: Any) -> AutoencoderKLWan:
    """4x in time, 8x in space, 4 latent channels with some mean and deviation, unless told otherwise."""
    given: dict[str, Any] = {
        "base_dim": 4,
        "num_res_blocks": 1,
        "z_dim": 4,
        "latents_mean": [-0.5, 0.0, 0.25, 1.0],
        "latents_std": [0.5, 1.0, 1.5, 2.0],
        **sizes,
    }
    return AutoencoderKLWan(**given)


def wan_scheduler() -> UniPCMultistepScheduler:
    """As in the folder of Wan2.1 1.3B."""
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def wan() -> WanPipeline:
    """With the scheduler that Wan comes with."""
    letters: Any = tokenizer()
    scheduler: Any = wan_scheduler()
    return WanPipeline(
        tokenizer=letters,
        text_encoder=UMT5EncoderModel(UMT5Config(**text_config(24))),
        vae=wan_vae(),
        scheduler=scheduler,
        transformer=wan_transformer(),
    )


MAKERS = {"ltx_video": ltx, "wan": wan}


def make_pipeline(name: str, seed: int = 0) -> Any:
    """The pipeline of that policy, the same for the same seed; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = MAKERS[name]()
    made.set_progress_bar_config(disable=True)
    return made


def make_pipeline_folder(name: str, folder: Path, seed: int = 0) -> Path:
    """That pipeline, saved by itself."""
    make_pipeline(name, seed).save_pretrained(folder)
    return folder


@torch.no_grad()
def integrate(policy: Any, num_steps: int, guidance_scale: float = 1.0) -> torch.Tensor:
    """Latents of ``SCENES`` by plain Euler steps from the noise of seed 1."""
    x = policy.noise(len(SCENES), torch.Generator().manual_seed(1))
    condition, sigmas = policy.encode(SCENES), policy.sigmas(num_steps)
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        x = x + (following - sigma) * policy.velocity(x, sigma.expand(len(x)), condition, guidance_scale)
    return x
