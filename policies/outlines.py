"""Policies without weights, for ``rlnsp plan``: from a part's own settings, in its folder or as published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from torch import Tensor, nn
from transformers import PreTrainedModel

from policies.files import read_json
from policies.latents import to_bytes, unpack
from policies.loading import where
from policies.lora import add_lora
from policies.published import HUBS, PARTS
from policies.settings import Source
from rlnsp.plan.outline import Outline, Part, Velocity
from rlnsp.pretrained import load
from rlnsp.settings import ConfigError

TEXT_TOKENS = 64
"""Of a scene's words, about."""


def own_settings(source: Source, part: str) -> dict[str, Any]:
    """A part's ``config.json``: of its folder, as published where that is known, or else asked of its hub.

    Raises:
        ConfigError: there is none.
    """
    path = source.path or ""
    if (name := HUBS.get((path, source.subfolder))) is not None:
        return dict(PARTS[name].config)
    folder = Path(path).expanduser() / source.subfolder
    if (folder / "config.json").is_file():  # the weights beside it need not be there
        return read_json(folder / "config.json")
    found, how = where(source, part)
    return load(f"{part}'s settings", found, lambda: ConfigMixin.load_config(found, **how))


def without_weights(kind: Any, config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """A model of diffusers or transformers on the meta device, frozen, for inference."""
    with torch.device("meta"):
        if issubclass(kind, PreTrainedModel):
            settings: Any = kind.config_class
            made = kind(settings.from_dict(dict(config)))
        else:
            made = kind.from_config(dict(config))
    for value in (*made.parameters(), *made.buffers()):
        if value.is_floating_point():
            value.data = value.data.to(dtype)
    return made.requires_grad_(False).eval()


def outline(
    model_of: Callable[[int], Any],
    config: Any,
    *,
    blocks: int,
    parts: Mapping[str, nn.Module],
    condition: tuple[int, int],
    condition_bytes: int = 4,
    reader: nn.Module,
    read_tokens: int,
    pixels: Callable[[Any, Tensor], Tensor],
    phases: Mapping[str, str] | None = None,
    reads: Callable[[int], tuple[nn.Module, Callable[[int], object]]] | None = None,
    read_layers: int = 0,
) -> Outline:
    """What ``Outlines.outline`` answers for a model of ours.

    Args:
        model_of: the policy's model on the meta device, its transformer with so many blocks.
        config: the policy's settings.
        blocks: of the transformer as it is.
        parts: frozen models by name, whole.
        condition: tokens and width of what the transformer attends to.
        condition_bytes: of a number of it.
        reader: the text model, without its table of embeddings.
        read_tokens: a scene's.
        pixels: of the model and latents (B, C, f, h, w), what its VAE makes.
        phases: of parts that wait elsewhere, the one in which they are used; see ``Part.phase``.
        reads: ``Outline.reader``.
        read_layers: of the text model.
    """
    lora = config.lora

    def denoiser(n: int) -> tuple[nn.Module, Velocity]:
        model = model_of(n)
        if config.gradient_checkpointing:
            model.transformer.enable_gradient_checkpointing()
        with torch.device("meta"):
            model.transformer = add_lora(
                model.transformer, rank=lora.rank, alpha=lora.alpha, targets=lora.targets, seed=lora.seed
            )
        return model.transformer, model.velocity

    def decoder() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        model = model_of(1)
        return model.vae, lambda x: to_bytes(pixels(model, unpack(x, grid_of(model))))

    adapted, _ = denoiser(blocks)
    grid = grid_of(model_of(1))
    return Outline(
        parts={name: _size(part, (phases or {}).get(name, "")) for name, part in parts.items()},
        trained=sum(value.numel() for value in adapted.parameters() if value.requires_grad),
        blocks=blocks,
        denoiser=denoiser,
        decoder=decoder,
        latent=(grid.num_tokens, grid.channels * grid.patch**2 * grid.patch_t),
        condition=condition,
        condition_bytes=condition_bytes,
        first=grid.frame_tokens if getattr(config, "first_frame", "none") != "none" else 0,
        decode_batch_size=config.decode_batch_size,
        read_parameters=sum(value.numel() for value in reader.parameters()),
        read_tokens=read_tokens,
        reader=reads,
        read_layers=read_layers,
    )


def grid_of(model: Any) -> Any:
    """The latent grid of the clips that a model of ours makes."""
    return model.grid() if callable(model.grid) else model.grid


def text_encoder_only(text_encoder: nn.Module) -> Any:
    """In the place of a pipeline that only reads."""
    return SimpleNamespace(text_encoder=text_encoder, tokenizer=None)


def _size(part: nn.Module, phase: str) -> Part:
    values = list(part.parameters())
    return Part(
        parameters=sum(value.numel() for value in values),
        bytes=sum(value.numel() * value.element_size() for value in values),
        phase=phase,
    )


def require_adapter_alone(config: Any) -> None:
    """Raise ConfigError where more than the adapter is trained: the rest of it is not counted."""
    for name in ("train_connector", "train_queries"):
        if getattr(config, name, False):
            raise ConfigError(
                f"policy.config.{name}: rlnsp plan counts the adapter's training alone; plan without it"
            )
