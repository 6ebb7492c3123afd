"""The unified video model, parts in: what the policy samples with and what the pre-training stages train.

Shapes: B rows, Q queries, D caption channels, N latent tokens, C their channels; F, H, W frames and pixels.
Conventions: sigma is 1 at noise and 0 at data; velocity = noise - data.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Generator, Tensor, nn

from policies import ltx
from policies.autocast import autocast
from policies.latents import Geometry, Grid, pack, standard_normal
from policies.loading import require_fit
from policies.unified.comprehension import NEXT_SCENE, Comprehension
from policies.unified.connector import Connector
from rlnsp.maths.density import mean_over_latent
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
        self._waiting: frozenset[str] = frozenset()
        self._patches = transformer.config["patch_size"], transformer.config["patch_size_t"]
        self._check_widths(transformer.config["in_channels"], transformer.config["caption_channels"])
        self.grid()
        self.train_only()
        self.eval()

    def _check_widths(self, in_channels: int, caption_channels: int) -> None:
        patch, patch_t = self._patches
        connector, channels = self.connector.config, self.vae.config["latent_channels"] * patch**2 * patch_t
        width = self.comprehension.width
        require_fit(
            ("connector's width", connector["width"], "comprehension's hidden size", width),
            ("connector's output", connector["out"], "transformer's caption_channels", caption_channels),
            ("VAE's latent channels in a patch", channels, "transformer's in_channels", in_channels),
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.connector.queries.device

    def place(self, device: torch.device, waiting: Collection[str] = ()) -> None:
        """Put the parts on a device; those ``waiting`` are on the CPU but while they are used."""
        self._waiting = frozenset(waiting)
        for name, part in self.named_children():
            part.to("cpu" if name in self._waiting else device)

    @contextmanager
    def _used(self, name: str) -> Iterator[None]:
        part = self.get_submodule(name)
        if name not in self._waiting:
            yield
            return
        part.to(self.device)
        try:
            yield
        finally:
            part.to("cpu")
            if self.device.type == "cuda":
                torch.cuda.empty_cache()  # its place is for others, of other libraries too

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
        return ltx.grid_of(geometry or self.geometry, self.vae, self._patches)

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
        hidden = self.read_texts(texts, template=template, clips=clips, connector=connector)
        return self.translate(hidden, connector)

    def read_texts(
        self,
        texts: Sequence[str],
        *,
        template: str = NEXT_SCENE,
        clips: Sequence[np.ndarray | None] | None = None,
        connector: Connector | None = None,
    ) -> Tensor:
        """What Qwen says at the queries, (B + 1, Q, W) fp32, the null row last; for ``translate``.

        Arguments as ``encode_texts``.  Where neither Qwen nor the queries are trained it can be kept.
        """
        connector = connector or self.connector
        prompts = [*(template.format(text) for text in texts), ""]
        with self._used("comprehension"), autocast(self.device, self.compute_dtype):
            hidden = self.comprehension(prompts, connector.queries, [*(clips or [None] * len(texts)), None])
        return hidden.float()

    def translate(self, hidden: Tensor, connector: Connector | None = None) -> Condition:
        """The condition of what ``read_texts`` gave."""
        embeds = (connector or self.connector)(hidden)
        mask = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        return Condition(embeds=embeds[:-1], mask=mask[:-1], null_embeds=embeds[-1:], null_mask=mask[-1:])

    def sigmas(self, num_steps: int, geometry: Geometry | None = None) -> Tensor:
        """(num_steps + 1,) fp32 on the CPU, from 1 to 0: LTX's schedule for this number of tokens."""
        return ltx.schedule(self.scheduler, num_steps, self.grid(geometry).num_tokens)

    def noise(self, n: int, generator: Generator, geometry: Geometry | None = None) -> Tensor:
        """(n, N, C) fp32; LTXPipeline draws the same from the same generator."""
        grid = self.grid(geometry)
        return pack(standard_normal((n, *grid.shape), generator, self.device), grid)

    def velocity(
        self,
        x: Tensor,
        sigma: Tensor,
        condition: Condition,
        guidance_scale: float = 1.0,
        geometry: Geometry | None = None,
    ) -> Tensor:
        """(B, N, C) fp32, noise - data at ``x`` (B, N, C) and ``sigma`` (B,); see ``ltx.velocity``.

        With ``guidance_scale`` w other than 1, v(null) + w (v(condition) - v(null)) from one batched call.
        """
        geometry = geometry or self.geometry
        return ltx.velocity(
            self.transformer,
            x,
            sigma,
            condition,
            guidance_scale,
            tokens=self.grid(geometry).tokens,
            rope=ltx.rope_scale(geometry, self.vae),
            num_timesteps=self.scheduler.config["num_train_timesteps"],
            dtype=self.compute_dtype,
        )

    def flow_loss(
        self,
        latents: Tensor,
        sigma: Tensor,
        noise: Tensor,
        condition: Condition,
        drop: Tensor | None = None,
        geometry: Geometry | None = None,
        first: Tensor | None = None,
    ) -> Tensor:
        """(B,) fp32, the flow-matching error |v - (noise - data)|^2, mean over tokens and channels.

        Args:
            latents: (B, N, C), data, as ``encode_frames`` makes them.
            sigma: (B,) in (0, 1].
            noise: (B, N, C), standard normal.
            condition: B rows.
            drop: (B,) bool; True where the null condition stands in, which guidance needs trained.
            geometry: of these clips.
            first: (B,) bool; True where the first latent frame is given, of clips that have more: it is seen
                as it is, at sigma 0, and the mean is over the others (arXiv:2501.00103, image conditioning).
        """
        embeds, mask = condition.embeds, condition.mask
        if drop is not None:
            embeds = torch.where(drop[:, None, None], condition.null_embeds, embeds)
            mask = torch.where(drop[:, None], condition.null_mask, mask)
        kept = replace(condition, embeds=embeds, mask=mask)
        at, made = sigma[:, None, None], None
        if first is not None:
            made = torch.ones(latents.shape[:2], dtype=torch.bool, device=latents.device)
            made[first, : self.grid(geometry).frame_tokens] = False
            sigma = sigma[:, None] * made
            at = sigma[..., None]
        v = self.velocity((1 - at) * latents + at * noise, sigma, kept, geometry=geometry)
        return mean_over_latent((v - (noise - latents)).pow(2), made)

    def encode_frames(self, frames: np.ndarray, generator: Generator | None = None) -> Tensor:
        """Packed, normalised latents (B, N, C) fp32 of uint8 (B, F, H, W, 3); see ``ltx.encode``."""
        _, f, h, w, _ = frames.shape
        grid = self.grid(Geometry(num_frames=f, height=h, width=w, fps=self.geometry.fps))
        with self._used("vae"):
            return ltx.encode(frames, self.vae, grid, generator)

    def decode(self, x: Tensor, generator: Generator, geometry: Geometry | None = None) -> Video:
        """Clips of denoised latents (B, N, C); see ``ltx.decode``."""
        geometry = geometry or self.geometry
        with self._used("vae"):
            frames = ltx.decode(
                x,
                self.vae,
                self.grid(geometry),
                generator,
                timestep=self.decode_timestep,
                noise_scale=self.decode_noise_scale,
                batch_size=self.decode_batch_size,
            )
        return Video(frames=frames, fps=geometry.fps)
