"""The parts of a text-to-video pipeline of diffusers, and what every such pipeline does alike.

Shapes: B rows, L text tokens, D text channels, N latent tokens, C their channels; F, H, W frames and pixels.
Conventions: sigma is 1 at noise and 0 at data; velocity = noise - data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from torch import Generator, Tensor, nn
from transformers import T5Tokenizer

from policies.files import read_json
from policies.latents import Geometry, Grid, pack, standard_normal
from policies.loading import where
from policies.settings import PipelineSettings, Source
from rlnsp.pretrained import DTYPES, is_hub_id, load
from rlnsp.settings import require
from rlnsp.types import Condition

INDEX = "model_index.json"
Sampler = Callable[[Tensor, Condition, int, float], Tensor]
"""Latents (B, N, C) fp32 of noise (B, N, C), a condition, the number of steps and the guidance scale."""
T = TypeVar("T")


class PipelineModel(nn.Module, ABC):
    """Text encoder, transformer and VAE, frozen, used as their own pipeline uses them."""

    def __init__(
        self,
        *,
        reader: Any,
        transformer: nn.Module,
        vae: nn.Module,
        scheduler: Any,
        grid: Grid,
        settings: PipelineSettings,
    ) -> None:
        """Frozen throughout.

        Args:
            reader: the pipeline itself, of which only text encoder and tokenizer are used.
            transformer: the denoiser.
            vae: its latents' mean and deviation set.
            scheduler: its schedule.
            grid: the latent grid of the clips.
            settings: of the clips, texts and precision.
        """
        super().__init__()
        self.reader, self.scheduler, self.grid, self.settings = reader, scheduler, grid, settings
        self.text_encoder: nn.Module = reader.text_encoder
        self.transformer, self.vae = transformer, vae
        self.compute_dtype = DTYPES[settings.dtype]
        self.geometry = geometry_of(settings)
        self.requires_grad_(False)
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.transformer.parameters()).device

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Condition:
        """A row a text, (B, L, D) as the text encoder says it, and the row of the negative prompt.

        Raises:
            ConfigError: a text is longer than ``max_length``.
        """
        rows = [*texts, self.settings.negative_prompt]
        self._require_short(rows)
        embeds, mask = self.read(rows)
        return Condition(embeds=embeds[:-1], mask=mask[:-1], null_embeds=embeds[-1:], null_mask=mask[-1:])

    def noise(self, n: int, generator: Generator) -> Tensor:
        """(n, N, C) fp32; the pipeline draws the same from the same generator."""
        return pack(standard_normal((n, *self.grid.shape), generator, self.device), self.grid)

    @abstractmethod
    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(B, L, D) and (B, L) bool, True where the transformer attends to: as the pipeline reads texts."""

    @abstractmethod
    def stock_pipeline(self, transformer: nn.Module) -> Any:
        """The pipeline of diffusers that these parts are of, with ``transformer`` in its place."""

    @abstractmethod
    def stock_sampler(self, transformer: nn.Module) -> Sampler:
        """That pipeline's denoising, by nothing of ours but the network."""

    @abstractmethod
    def sigmas(self, num_steps: int) -> Tensor:
        """(num_steps + 1,) fp32 on the CPU, from 1 to 0."""

    @abstractmethod
    def velocity(self, x: Tensor, sigma: Tensor, condition: Condition, guidance_scale: float) -> Tensor:
        """(B, N, C) fp32, noise - data at ``x`` (B, N, C) and ``sigma`` (B,), guided as the pipeline does."""

    @abstractmethod
    def encode(self, frames: np.ndarray, generator: Generator | None) -> Tensor:
        """Latents (B, N, C) fp32 of uint8 (B, F, H, W, 3): the posterior's mean, or a draw from it."""

    @abstractmethod
    def decode(self, x: Tensor, generator: Generator) -> np.ndarray:
        """uint8 (B, F, H, W, 3) of denoised latents (B, N, C)."""

    def _require_short(self, texts: Sequence[str]) -> None:
        most = self.settings.max_length
        for text, ids in zip(texts, self.reader.tokenizer(list(texts))["input_ids"], strict=True):
            # The pipelines would cut it off, and scenes that differ would become one.
            require(
                len(ids) <= most,
                f"context {text[:60]!r}: {len(ids)} tokens are more than the {most} of "
                "policy.config.max_length. Shorten it, or raise that.",
            )


def geometry_of(settings: PipelineSettings) -> Geometry:
    """The clips that are made."""
    return Geometry(
        num_frames=settings.num_frames, height=settings.height, width=settings.width, fps=settings.fps
    )


def read_index(settings: PipelineSettings, pipelines: Collection[str]) -> dict[str, Any]:
    """The pipeline's ``model_index.json``.

    Raises:
        ConfigError: there is none, or it is of none of ``pipelines``.
    """
    name, folder = settings.folder, Path(settings.folder).expanduser()
    if folder.is_dir():
        path = folder / INDEX
        require(
            path.is_file(), f"policy.config.folder: {path} is missing. Give a diffusers pipeline's folder."
        )
    else:
        require(
            is_hub_id(name), f"policy.config.folder: {name} does not exist. Give a folder, or a hub's id."
        )
        how = {"revision": settings.revision, "local_files_only": settings.local_files_only}
        path = Path(load("pipeline", name, lambda: hf_hub_download(name, INDEX, **how)))
    index = read_json(path)
    require(
        index.get("_class_name") in pipelines,
        f"{path}: a {index.get('_class_name')}, but this policy reads {' or '.join(sorted(pipelines))}. "
        "Choose the policy that fits (policy.use), or another folder.",
    )
    return index


def source_of(settings: PipelineSettings, part: str) -> Source:
    """Where a part comes from: its own setting, or the pipeline's folder."""
    own: Source = getattr(settings, part)
    if own.path is not None:
        return own
    whole = Source(
        path=settings.folder, revision=settings.revision, local_files_only=settings.local_files_only
    )
    return replace(whole, subfolder=part)


def load_text_encoder(kind: type[T], settings: PipelineSettings) -> T:
    """The text encoder, in the precision of the settings, for inference."""
    path, how = where(source_of(settings, "text_encoder"), "text_encoder")
    loader: Any = kind
    return load(
        "text_encoder",
        path,
        lambda: loader.from_pretrained(
            path, dtype=DTYPES[settings.dtype], use_safetensors=True, output_loading_info=True, **how
        ),
    ).eval()


def load_tokenizer(settings: PipelineSettings) -> T5Tokenizer:
    """The tokenizer, of the class that both pipelines name."""
    path, how = where(source_of(settings, "tokenizer"), "tokenizer")
    return load("tokenizer", path, lambda: T5Tokenizer.from_pretrained(path, **how))
