"""Pipelines of random weights, small enough for a test, as folders that the libraries themselves saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.ltx.pipeline_ltx import LTXPipeline
from transformers import T5Config, T5EncoderModel

from benchmarks.random_wan import letters, random_wan, text_sizes
from policies.ltx import ltx_scheduler
from rlnsp.types import Scene
from tests.policies import tiny

SIZE: dict[str, Any] = {"num_frames": 5, "height": 32, "width": 64, "fps": 8.0, "max_length": 24}
SCENES = [Scene(id="a", context="a ball rolls"), Scene(id="b", context="the lamp is lit")]
NAMES = ("ltx_video", "wan")


def ltx(seed: int) -> LTXPipeline:
    """LTX's own constants, and the DiT and VAE of the unified policy's tests."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LTXPipeline(
            scheduler=ltx_scheduler(),
            vae=tiny.vae(),
            text_encoder=T5EncoderModel(T5Config(**text_sizes(tiny.CAPTION_CHANNELS))),
            tokenizer=letters(),
            transformer=tiny.transformer(),
        )


def wan(seed: int) -> Any:
    """4 latent channels with some mean and deviation; a transformer of two layers of width 32."""
    transformer = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2}
    moments = {"latents_mean": [-0.5, 0.0, 0.25, 1.0], "latents_std": [0.5, 1.0, 1.5, 2.0]}
    return random_wan(
        {**transformer, "text_dim": 24, "freq_dim": 16, "ffn_dim": 48},
        {"base_dim": 4, "num_res_blocks": 1, "z_dim": 4, **moments},
        seed,
    )


def make_pipeline_folder(name: str, folder: Path, seed: int = 0) -> Path:
    """The pipeline of that policy, saved by itself; the same for the same seed."""
    made = {"ltx_video": ltx, "wan": wan}[name](seed)
    made.save_pretrained(folder)
    return folder


def run_pipeline(pipeline: Any, num_steps: int, guidance_scale: float, output_type: str, **own: Any) -> Any:
    """What the stock pipeline makes of ``SCENES`` from the noise of seed 1; ``own`` are its own arguments."""
    size = {key: SIZE[key] for key in ("height", "width", "num_frames")}
    return pipeline(
        prompt=[scene.context for scene in SCENES],
        num_inference_steps=num_steps,
        guidance_scale=guidance_scale,
        max_sequence_length=SIZE["max_length"],
        generator=torch.Generator().manual_seed(1),
        output_type=output_type,
        **size,
        **own,
    ).frames


@torch.no_grad()
def integrate(
    policy: Any,
    num_steps: int,
    guidance_scale: float = 1.0,
    sigmas: torch.Tensor | None = None,
    levels: torch.Tensor | None = None,
) -> torch.Tensor:
    """Latents of ``SCENES`` by plain Euler steps from the noise of seed 1.

    ``sigmas`` are the policy's unless given, and ``levels``, what it is told of them, the same unless given.
    """
    x = policy.noise(len(SCENES), torch.Generator().manual_seed(1))
    condition = policy.encode(SCENES)
    path: torch.Tensor = policy.sigmas(num_steps) if sigmas is None else sigmas
    told = path[:-1] if levels is None else levels
    for level, step in zip(told, path.diff(), strict=True):
        x = x + step * policy.velocity(x, level.expand(len(x)), condition, guidance_scale)
    return x
