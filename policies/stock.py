"""The same weights in diffusers' own pipelines: what a policy's sampler is compared with.

Shapes: B rows, N latent tokens, C their channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers.pipelines.ltx.pipeline_ltx import LTXPipeline
from diffusers.pipelines.ltx.pipeline_ltx_image2video import LTXImageToVideoPipeline
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from policies.autocast import autocast
from policies.latents import Geometry, Grid, pack, unpack
from rlnsp.types import Condition


@torch.no_grad()
def ltx_latents(
    x: Tensor,
    condition: Condition,
    num_steps: int,
    guidance_scale: float,
    *,
    pipeline: LTXPipeline,
    geometry: Geometry,
    dtype: torch.dtype,
) -> Tensor:
    """Denoised latents (B, N, C) fp32, by LTXPipeline's schedule, steps and guidance.

    By LTXImageToVideoPipeline's, of the same parts, where the condition has a first frame.

    Args:
        x: (B, N, C) packed noise.
        condition: B rows, in the place of encoded prompts.
        num_steps: of the schedule.
        guidance_scale: 1 for none.
        pipeline: the transformer in it with whatever adapter its layers carry; of the scheduler the settings.
        geometry: of the clips.
        dtype: of the forward.
    """
    # Its own: the one that it came with is the policy's, which keeps a schedule in it.
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    call: Any = pipeline
    if condition.first is not None:
        call, x = LTXImageToVideoPipeline(**pipeline.components), condition.given(x)
    call.set_progress_bar_config(disable=True)
    with autocast(x.device, dtype):
        made: Any = call(
            height=geometry.height,
            width=geometry.width,
            num_frames=geometry.num_frames,
            frame_rate=geometry.fps,
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


@torch.no_grad()
def wan_latents(
    x: Tensor,
    condition: Condition,
    num_steps: int,
    guidance_scale: float,
    *,
    pipeline: WanPipeline,
    geometry: Geometry,
    grid: Grid,
    dtype: torch.dtype,
) -> Tensor:
    """Denoised latents (B, N, C) fp32, by WanPipeline's steps and guidance and its scheduler's schedule.

    Args:
        x: (B, N, C) packed noise.
        condition: B rows, in the place of encoded prompts.
        num_steps: of the schedule.
        guidance_scale: 1 for none.
        pipeline: the transformer in it with whatever adapter its layers carry.
        geometry: of the clips.
        grid: of their latents.
        dtype: of the forward.
    """
    pipeline.set_progress_bar_config(disable=True)
    # The pipeline would guide in bf16.
    in_fp32 = pipeline.transformer.register_forward_hook(lambda _, __, output: (output[0].float(),))
    try:
        with autocast(x.device, dtype):
            made: Any = pipeline(
                height=geometry.height,
                width=geometry.width,
                num_frames=geometry.num_frames,
                num_inference_steps=num_steps,
                guidance_scale=guidance_scale,
                latents=unpack(x, grid),
                prompt_embeds=condition.embeds,
                negative_prompt_embeds=condition.null_embeds.expand_as(condition.embeds),
                output_type="latent",
            )
    finally:
        in_fp32.remove()
    return pack(made.frames.float(), grid)


class EvenEuler(FlowMatchEulerDiscreteScheduler):
    """Euler's steps at Wan's own sigmas: even ones, then shifted once (``get_sampling_sigmas`` in its code).

    The multistep scheduler of Wan's folders has the same to 3e-3: it begins at 0.999 and rounds timesteps.
    """

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """``num_inference_steps`` sigmas, and the 0 after them."""
        even: Any = np.linspace(1, 0, num_inference_steps + 1)[:-1]
        super().set_timesteps(sigmas=even, device=device)
