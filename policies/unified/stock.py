"""The same weights in diffusers' own LTXPipeline: what the policy's sampler is compared with."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.pipelines.ltx.pipeline_ltx import LTXPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from policies.autocast import autocast
from policies.unified.model import UnifiedModel
from rlnsp.types import Condition


@torch.no_grad()
def ltx_latents(
    model: UnifiedModel,
    transformer: LTXVideoTransformer3DModel,
    x: Tensor,
    condition: Condition,
    num_steps: int,
    guidance_scale: float,
) -> Tensor:
    """Denoised latents (B, N, C) fp32, by the pipeline's schedule, steps and guidance.

    Args:
        model: gives the geometry, the VAE that it is for, and the scheduler's settings.
        transformer: the DiT, with whatever adapter its layers carry.
        x: (B, N, C) packed noise.
        condition: B rows, in the place of encoded prompts.
        num_steps: of the schedule.
        guidance_scale: 1 for none.
    """
    parts: dict[str, Any] = {
        "transformer": transformer,
        "vae": model.vae,
        "scheduler": FlowMatchEulerDiscreteScheduler.from_config(model.scheduler.config),
        "text_encoder": None,
        "tokenizer": None,
    }
    pipeline = LTXPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    with autocast(x.device, model.compute_dtype):
        made: Any = pipeline(
            height=model.geometry.height,
            width=model.geometry.width,
            num_frames=model.geometry.num_frames,
            frame_rate=model.geometry.fps,  # pyright: ignore[reportArgumentType]
            num_inference_steps=num_steps,
            guidance_scale=guidance_scale,
            latents=x,
            prompt_embeds=condition.embeds,
            prompt_attention_mask=condition.mask,
            negative_prompt_embeds=condition.null_embeds.expand_as(condition.embeds),
            negative_prompt_attention_mask=condition.null_mask.expand_as(condition.mask),
            output_type="latent",
        )
    return made.frames.float()
