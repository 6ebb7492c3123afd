"""The unified model of stages 1 and 2 without weights, from its parts' own settings.

Q is the number of queries.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from policies import ltx, outlines
from policies.latents import Geometry
from policies.settings import Source
from policies.unified import files, weights
from policies.unified.comprehension import Comprehension
from policies.unified.connector import Connector
from policies.unified.model import UnifiedModel
from pretrain.comprehension import sizes
from pretrain.parts import fresh_transformer
from pretrain.settings import PretrainConfig
from pretrain.vae import build_vae


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Each part's own settings, and the clips."""

    comprehension: Mapping[str, Any]
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    connector: Mapping[str, Any]
    geometry: Geometry

    @property
    def blocks(self) -> int:
        """Of the DiT."""
        return self.transformer.get("num_layers", 28)

    @property
    def layers(self) -> int:
        """Of Qwen's text model."""
        return self.comprehension["text_config"]["num_hidden_layers"]

    @property
    def image_edge(self) -> int:
        """Pixels along the edge of what one token of a picture shows."""
        vision = self.comprehension["vision_config"]
        return vision["patch_size"] * vision["spatial_merge_size"]


def of_pretrain(config: PretrainConfig) -> Parts:
    """What stage 1's text-to-video stages train: parts that are given, and such as are made before them.

    Raises:
        ConfigError: a given part whose settings are not known.
    """
    given = config.parts
    qwen = _given(given.comprehension, "comprehension")
    if qwen is None:
        size = config.comprehension
        qwen = sizes(size, size.vocab_size, config.geometry.height)  # of words at the most
        qwen["text_config"] |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    vae = _given(given.vae, "vae")
    if vae is None:
        with torch.device("meta"):
            vae = dict(build_vae(config.vae).config)
    transformer = _given(given.transformer, "transformer") or fresh_transformer(config)
    comprehension, out = _whole(qwen), transformer["caption_channels"]
    connector = {"num_queries": config.transformer.num_queries, "hidden": out, "out": out}
    connector["width"] = comprehension["text_config"]["hidden_size"]
    return Parts(
        comprehension=comprehension,
        transformer=transformer,
        vae=vae,
        connector=connector,
        geometry=config.geometry,
    )


def of_folder(folder: Path) -> Parts:
    """A policy folder, of which the parts' settings are enough.

    Raises:
        ConfigError: a part's settings are not there.
    """
    given = {
        part: outlines.own_settings(Source(path=str(folder / part)), part)
        for part in files.PARTS
        if part != "scheduler"
    }
    given["comprehension"] = _whole(given["comprehension"])
    return Parts(**given, geometry=weights.geometry_of(folder))


def with_added_queries(parts: Parts, text: str) -> Parts:
    """With a query more for each word and mark of ``text``: about as many as its tokens."""
    more = len(re.findall(r"\w+|[^\w\s]", text))
    connector = {**parts.connector, "num_queries": parts.connector["num_queries"] + more}
    return Parts(**{**vars(parts), "connector": connector})


def model_of(
    parts: Parts, *, blocks: int | None = None, layers: int | None = None, words: int = outlines.TEXT_TOKENS
) -> UnifiedModel:
    """The model on the meta device, in fp32, as a stage loads it.

    Args:
        parts: its parts.
        blocks: of the DiT; None: all.
        layers: of Qwen's text model; None: all.
        words: tokens that each text has.
    """
    qwen = copy.deepcopy(dict(parts.comprehension))
    if layers is not None:
        text = qwen["text_config"]
        text["num_hidden_layers"] = layers
        if text.get("layer_types"):
            text["layer_types"] = (text["layer_types"] * layers)[:layers]
    cut = {**parts.transformer, "num_layers": parts.blocks if blocks is None else blocks}
    made = outlines.without_weights(Qwen2_5_VLForConditionalGeneration, qwen, torch.float32)
    made.model.get_rope_index = _positions
    reader: Any = _Reader(words)
    return UnifiedModel(
        comprehension=Comprehension(made, reader, reader),
        connector=outlines.without_weights(Connector, parts.connector, torch.float32),
        transformer=outlines.without_weights(LTXVideoTransformer3DModel, cut, torch.float32),
        vae=outlines.without_weights(AutoencoderKLLTXVideo, parts.vae, torch.float32),
        scheduler=ltx.ltx_scheduler(),
        geometry=parts.geometry,
    )


class _Reader:
    """In the place of a tokenizer: every text has so many tokens."""

    chat_template = None
    pad_token_id = eos_token_id = 0

    def __init__(self, words: int) -> None:
        self.words = words

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [1] * self.words}

    def convert_ids_to_tokens(self, number: int) -> str:
        return ""


def _positions(ids: Tensor, *others: Any, **more: Any) -> tuple[Tensor, None]:
    """In the place of Qwen's, which looks at the numbers of the tokens; here there are none."""
    return torch.zeros(3, *ids.shape, dtype=torch.long), None


def _given(source: Source, part: str) -> dict[str, Any] | None:
    return None if source.path is None else outlines.own_settings(source, part)


def _whole(settings: Mapping[str, Any]) -> dict[str, Any]:
    """With all that is left to Qwen's defaults, in the layout of today."""
    return Qwen2_5_VLConfig.from_dict(dict(settings)).to_dict()
