"""The unified video model, parts in: what the policy samples with and what the pre-training stages train.

Shapes: B rows, Q queries, D caption channels, N latent tokens, C their channels; F, H, W frames and pixels.
Conventions: sigma is 1 at noise and 0 at data; velocity = noise - data.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Generator, Tensor, nn

from policies.unified import video
from policies.unified.comprehension import NEXT_SCENE, Comprehension
from policies.unified.connector import Connector
from policies.unified.video import Geometry, Grid
from rlnsp.settings import ConfigError
from rlnsp.types import Condition, Video

TRAINABLE = ("queries", "connector", "transformer", "vae")


class UnifiedModel(nn.Module):
    """Qwen2.5-VL reads, queries and connector translate, LTX-Video's DiT and VAE draw (arXiv 2512.13015)."""

    def __init__(
        self,
        *,
        comprehension: Comprehension,
        connector: Connector,
        transformer: LTXVideoTransformer3DModel,
        vae: AutoencoderKLLTXVideo,
        scheduler: FlowMatchEulerDiscreteScheduler,
        geometry: Geometry,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        """Frozen throughout; see ``train_only``.

        Args:
            comprehension: the frozen reader.
            connector: with the queries.
            transformer: the DiT.
            vae: its latents' mean and deviation set.
            scheduler: its schedule.
            geometry: the clips it makes unless told otherwise.
            compute_dtype: bfloat16 opens autocast round each forward of Qwen and the DiT, and nowhere else.

        Raises:
            ConfigError: parts that do not fit together.
        """
        super().__init__()
        self.comprehension, self.connector = comprehension, connector
        self.transformer: nn.Module = transformer
        self.vae, self.scheduler = vae, scheduler
        self.geometry, self.compute_dtype = geometry, compute_dtype
        self.decode_timestep, self.decode_noise_scale, self.decode_batch_size = 0.05, 0.025, 16
        self._patches = transformer.config["patch_size"], transformer.config["patch_size_t"]
        self._check_widths(transformer.config["in_channels"], transformer.config["caption_channels"])
        try:
            self.grid()
        except ValueError as error:
            raise ConfigError(f"policy.config.{error}") from error
        self.train_only()
        self.eval()

    def _check_widths(self, in_channels: int, caption_channels: int) -> None:
        patch, patch_t = self._patches
        connector, channels = self.connector.config, self.vae.config["latent_channels"] * patch**2 * patch_t
        for what, has, what_else, wants in (
            (
                "connector's width",
                connector["width"],
                "comprehension's hidden size",
                self.comprehension.width,
            ),
            ("connector's output", connector["out"], "transformer's caption_channels", caption_channels),
            ("VAE's latent channels in a patch", channels, "transformer's in_channels", in_channels),
        ):
            if has != wants:
                raise ConfigError(
                    f"policy.config: the {what} is {has}, the {what_else} {wants}. "
                    "Take the parts from one policy folder, or give all of them (policy.config.folder=null)."
                )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.connector.queries.device

    def train_only(self, *parts: str) -> None:
        """Gradient for these of ``TRAINABLE`` and nothing else; Qwen is always frozen."""
        if unknown := set(parts) - set(TRAINABLE):
            raise ValueError(f"{sorted(unknown)[0]!r} is no trainable part: {', '.join(TRAINABLE)}.")
        self.requires_grad_(False)
        self.connector.requires_grad_("connector" in parts)
        self.connector.queries.requires_grad_("queries" in parts)
        self.transformer.requires_grad_("transformer" in parts)
        self.vae.requires_grad_("vae" in parts)

    def grid(self, geometry: Geometry | None = None) -> Grid:
        """The latent grid of clips of ``geometry``."""
        patch, patch_t = self._patches
        return video.latent_grid(geometry or self.geometry, self.vae, patch=patch, patch_t=patch_t)

    def _autocast(self) -> AbstractContextManager[None]:
        if self.compute_dtype == torch.float32:
            return nullcontext()
        # No cache: it would outlive an optimiser step taken while someone else's autocast is open.
        return torch.autocast(self.device.type, self.compute_dtype, cache_enabled=False)  # pyright: ignore[reportReturnType]

    def encode_texts(
        self,
        texts: Sequence[str],
        *,
        template: str = NEXT_SCENE,
        clips: Sequence[np.ndarray | None] | None = None,
        connector: Connector | None = None,
    ) -> Condition:
        """A row a text, (B, Q, D) fp32, and the null row: the empty text without the template.

        Args:
            texts: contexts, or captions with ``template=comprehension.CAPTION``.
            template: with one ``{}`` for the text.
            clips: (F, H, W, 3) uint8 a row, or None: the context's own frames.
            connector: in place of the model's.
        """
        connector = connector or self.connector
        prompts = [*(template.format(text) for text in texts), ""]
        with self._autocast():
            hidden = self.comprehension(prompts, connector.queries, [*(clips or [None] * len(texts)), None])
        embeds = connector(hidden.float())
        mask = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        return Condition(embeds=embeds[:-1], mask=mask[:-1], null_embeds=embeds[-1:], null_mask=mask[-1:])

    def sigmas(self, num_steps: int, geometry: Geometry | None = None) -> Tensor:
        """(num_steps + 1,) fp32 on the CPU, from 1 to 0: LTX's schedule for this number of tokens."""
        return video.schedule(self.scheduler, num_steps, self.grid(geometry).num_tokens)

    def noise(self, n: int, generator: Generator, geometry: Geometry | None = None) -> Tensor:
        """(n, N, C) fp32; LTXPipeline draws the same from the same generator."""
        grid = self.grid(geometry)
        return video.pack(video.standard_normal((n, *grid.shape), generator, self.device), grid)

    def velocity(
        self,
        x: Tensor,
        sigma: Tensor,
        condition: Condition,
        guidance_scale: float = 1.0,
        geometry: Geometry | None = None,
    ) -> Tensor:
        """(B, N, C) fp32, noise - data at ``x`` (B, N, C) and ``sigma`` (B,).

        With ``guidance_scale`` w other than 1, v(null) + w (v(condition) - v(null)) from one batched call.
        """
        embeds, mask = condition.embeds, condition.mask
        guided = guidance_scale != 1.0
        if guided:
            n = len(x)
            embeds = torch.cat([condition.null_embeds.expand(n, -1, -1), embeds])
            mask = torch.cat([condition.null_mask.expand(n, -1), mask])
            x, sigma = torch.cat([x, x]), torch.cat([sigma, sigma])
        geometry = geometry or self.geometry
        frames, height, width = self.grid(geometry).tokens
        with self._autocast():
            v = self.transformer(
                hidden_states=x.to(self.compute_dtype),
                encoder_hidden_states=embeds.to(self.compute_dtype),
                timestep=sigma * self.scheduler.config["num_train_timesteps"],
                encoder_attention_mask=mask,
                num_frames=frames,
                height=height,
                width=width,
                rope_interpolation_scale=video.rope_scale(geometry, self.vae),
                return_dict=False,
            )[0].float()
        if not guided:
            return v
        v_null, v_condition = v.chunk(2)
        return v_null + guidance_scale * (v_condition - v_null)

    def flow_loss(
        self,
        latents: Tensor,
        sigma: Tensor,
        noise: Tensor,
        condition: Condition,
        drop: Tensor | None = None,
        geometry: Geometry | None = None,
    ) -> Tensor:
        """(B,) fp32, the flow-matching error |v - (noise - data)|^2, mean over tokens and channels.

        Args:
            latents: (B, N, C), data, as ``encode_frames`` makes them.
            sigma: (B,) in (0, 1].
            noise: (B, N, C), standard normal.
            condition: B rows.
            drop: (B,) bool; True where the null condition stands in, which guidance needs trained.
            geometry: of these clips.
        """
        embeds, mask = condition.embeds, condition.mask
        if drop is not None:
            embeds = torch.where(drop[:, None, None], condition.null_embeds, embeds)
            mask = torch.where(drop[:, None], condition.null_mask, mask)
        kept = Condition(
            embeds=embeds, mask=mask, null_embeds=condition.null_embeds, null_mask=condition.null_mask
        )
        at = sigma[:, None, None]
        v = self.velocity((1 - at) * latents + at * noise, sigma, kept, geometry=geometry)
        return (v - (noise - latents)).pow(2).mean((1, 2))

    @torch.no_grad()
    def encode_frames(self, frames: np.ndarray, generator: Generator | None = None) -> Tensor:
        """Packed, normalised latents (B, N, C) fp32 of uint8 (B, F, H, W, 3).

        The posterior's mean, or with a ``generator`` a draw from it.
        """
        _, f, h, w, _ = frames.shape
        grid = self.grid(Geometry(num_frames=f, height=h, width=w, fps=self.geometry.fps))
        pixels = video.to_pixels(frames).to(self.device, self.vae.dtype)
        posterior = self.vae.encode(pixels, return_dict=False)[0]
        latents = posterior.mean.float()
        if generator is not None:
            noise = video.standard_normal(tuple(latents.shape), generator, self.device)
            latents = latents + posterior.std.float() * noise
        return video.pack(video.normalise(latents, self.vae), grid)

    @torch.no_grad()
    def decode(self, x: Tensor, generator: Generator, geometry: Geometry | None = None) -> Video:
        """Clips of denoised latents (B, N, C).

        A VAE with timestep conditioning (LTX 0.9.5 on) is given a little noise, as LTXPipeline does;
        ``generator`` draws it, so the same one gives the same clip.
        """
        geometry = geometry or self.geometry
        latents = video.denormalise(video.unpack(x.float(), self.grid(geometry)), self.vae)
        timestep = None
        if self.vae.config["timestep_conditioning"]:
            noise = video.standard_normal(tuple(latents.shape), generator, self.device)
            latents = (1 - self.decode_noise_scale) * latents + self.decode_noise_scale * noise
            timestep = torch.full((len(x),), self.decode_timestep, device=self.device, dtype=self.vae.dtype)
        clips = []
        for start in range(0, len(x), self.decode_batch_size):
            rows = slice(start, start + self.decode_batch_size)
            at = None if timestep is None else timestep[rows]
            pixels = self.vae.decode(latents[rows].to(self.vae.dtype), at, return_dict=False)[0]
            clips.append(video.from_pixels(pixels))
        return Video(frames=np.concatenate(clips), fps=geometry.fps)
