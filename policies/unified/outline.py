"""The unified model without weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration

from policies import ltx, outlines
from policies.autocast import autocast
from policies.unified.comprehension import Comprehension
from policies.unified.connector import Connector
from policies.unified.model import UnifiedModel
from policies.unified.weights import need, parts_of
from rlnsp.plan.outline import Outline
from rlnsp.pretrained import DTYPES

if TYPE_CHECKING:
    from policies.unified.policy import Unified


USED = {"comprehension": ("comprehension", "reading"), "vae": ("VAE", "decoding")}
"""Of what may wait elsewhere, its name here and when it is used."""


def outline(config: Unified.Config) -> Outline:
    """See ``rlnsp.plan.outline.Outlines``."""
    outlines.require_adapter_alone(config)
    geometry, sources = parts_of(config)
    dtype = DTYPES[config.dtype]
    settings = {
        part: outlines.own_settings(need(sources, part), part)
        for part in ("comprehension", "transformer", "vae")
    }
    qwen = outlines.without_weights(Qwen2_5_VLForConditionalGeneration, settings["comprehension"], dtype)
    vae = outlines.without_weights(AutoencoderKLLTXVideo, settings["vae"], dtype)
    width, out = qwen.config.text_config.hidden_size, settings["transformer"]["caption_channels"]
    if (source := sources["connector"]) is not None:
        between = outlines.own_settings(source, "connector")
    else:
        between = {"num_queries": config.num_queries, "width": width, "out": out}
        between["hidden"] = config.connector_hidden or out
    connector = outlines.without_weights(Connector, between, torch.float32)

    def transformer(blocks: int) -> LTXVideoTransformer3DModel:
        cut = {**settings["transformer"], "num_layers": blocks}
        return outlines.without_weights(LTXVideoTransformer3DModel, cut, dtype)

    def model_of(blocks: int) -> UnifiedModel:
        words: Any = None  # nothing is read
        return UnifiedModel(
            comprehension=Comprehension(qwen, words, words),
            connector=connector,
            transformer=transformer(blocks),
            vae=vae,
            scheduler=ltx.ltx_scheduler(),
            geometry=geometry,
            compute_dtype=dtype,
        )

    def pixels(model: UnifiedModel, latents: Tensor) -> Tensor:
        at = latents.new_full((len(latents),), 0.0) if vae.config["timestep_conditioning"] else None
        return model.vae.decode(latents.to(dtype), at, return_dict=False)[0]

    def reads(layers: int) -> tuple[nn.Module, Callable[[int], object]]:
        text: Any = copy.deepcopy(qwen.model.language_model)
        text.layers = text.layers[:layers]

        def read(rows: int) -> None:  # as ``Comprehension.forward`` does
            with autocast(torch.device("cpu"), dtype):
                words, asked = (
                    torch.empty(rows, length, width, dtype=dtype)
                    for length in (outlines.TEXT_TOKENS, between["num_queries"])
                )
                before = text(inputs_embeds=words, use_cache=True).past_key_values
                text(inputs_embeds=asked, past_key_values=before, use_cache=True)

        return text, read

    blocks = settings["transformer"].get("num_layers", 28)
    parts: dict[str, Any] = {
        "comprehension": qwen,
        "connector": connector,
        "transformer": transformer(blocks),
        "VAE": vae,
    }
    layers = qwen.model.language_model.layers
    return outlines.outline(
        model_of,
        config,
        blocks=blocks,
        parts=parts,
        condition=(between["num_queries"], out),
        reader=layers,
        read_tokens=between["num_queries"] + outlines.TEXT_TOKENS,
        pixels=pixels,
        phases=dict(USED[part] for part in config.offload),
        reads=reads,
        read_layers=len(layers),
    )
