"""Parts in, parts out, in the hubs' own layouts: from_pretrained, save_pretrained, safetensors only."""

from __future__ import annotations

import copy
import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from policies.latents import Geometry
from policies.loading import load_diffusers, load_scheduler, where
from policies.settings import Source
from policies.unified import files
from policies.unified.comprehension import Comprehension
from policies.unified.connector import Connector, new_connector
from policies.unified.model import UnifiedModel
from policies.unified.settings import Limits
from rlnsp.pretrained import DTYPES, load, without_bars
from rlnsp.settings import ConfigError

if TYPE_CHECKING:
    from policies.unified.policy import Unified

GEOMETRY_KEYS = ("num_frames", "height", "width", "fps")


def load_model(config: Unified.Config) -> UnifiedModel:
    """The model that ``config`` describes, on the CPU, nothing in it trainable.

    Raises:
        ConfigError: a missing or damaged file, or parts that do not fit together.
    """
    _, sources = parts_of(config)
    dtype = DTYPES[config.dtype]
    return assemble(
        config,
        comprehension=load_comprehension(need(sources, "comprehension"), dtype=dtype, limits=config.limits),
        transformer=load_transformer(need(sources, "transformer"), dtype=dtype),
        vae=load_vae(need(sources, "vae"), dtype=dtype),
        scheduler=load_scheduler(need(sources, "scheduler")),
    )


def assemble(
    config: Unified.Config,
    *,
    comprehension: Comprehension,
    transformer: LTXVideoTransformer3DModel,
    vae: AutoencoderKLLTXVideo,
    scheduler: FlowMatchEulerDiscreteScheduler,
) -> UnifiedModel:
    """The model of these parts as ``config`` describes it, with the connector that it names or a fresh one.

    Raises:
        ConfigError: a connector that cannot be loaded, or parts that do not fit together.
    """
    geometry, sources = parts_of(config)
    out = transformer.config["caption_channels"]
    if (source := sources["connector"]) is not None:
        connector = load_connector(source)
    else:
        connector = new_connector(
            num_queries=config.num_queries, width=comprehension.width, out=out, hidden=config.connector_hidden
        )
    model = UnifiedModel(
        comprehension=comprehension,
        connector=connector,
        transformer=transformer,
        vae=vae,
        scheduler=scheduler,
        geometry=geometry,
        compute_dtype=DTYPES[config.dtype],
    )
    model.decode_timestep, model.decode_noise_scale = config.decode_timestep, config.decode_noise_scale
    model.decode_batch_size = config.decode_batch_size
    return model


def parts_of(config: Unified.Config) -> tuple[Geometry, dict[str, Source | None]]:
    """The clips that ``config`` describes, and where each of ``files.PARTS`` is; None: nowhere.

    Raises:
        ConfigError: no such folder, or clips without a size.
    """
    folder = files.policy_folder(config.folder) if config.folder is not None else None
    given: dict[str, Any] = files.read_policy_json(folder) if folder else {}
    size: dict[str, Any] = {key: getattr(config, key) or given.get(key) for key in GEOMETRY_KEYS}
    if missing := [key for key, value in size.items() if not value]:
        raise ConfigError(f"policy.config.{missing[0]}: without policy.config.folder it must be given.")
    sources = {part: _source(getattr(config, part), folder, part) for part in files.PARTS}
    return Geometry(**size), sources


def geometry_of(folder: Path) -> Geometry:
    """The clips that a policy folder makes.

    Raises:
        ConfigError: its ``policy.json`` is not valid.
    """
    given = files.read_policy_json(folder)
    return Geometry(**{key: given[key] for key in GEOMETRY_KEYS})


def load_comprehension(
    source: Source, *, dtype: torch.dtype | Literal["auto"] = torch.float32, limits: Limits | None = None
) -> Comprehension:
    """Qwen2.5-VL with its tokenizer and image processor, frozen; ``auto``: in the type that is stored."""
    path, how = where(source, "comprehension")
    model = load(
        "comprehension",
        path,
        lambda: Qwen2_5_VLForConditionalGeneration.from_pretrained(
            path, dtype=dtype, use_safetensors=True, output_loading_info=True, **how
        ),
    )
    tokenizer = load("comprehension's tokenizer", path, lambda: AutoTokenizer.from_pretrained(path, **how))
    images = load(
        "comprehension's image processor",
        path,
        lambda: Qwen2VLImageProcessorPil.from_pretrained(path, **how),
    )
    return Comprehension(model, tokenizer, images, limits)


def load_transformer(source: Source, *, dtype: torch.dtype = torch.float32) -> LTXVideoTransformer3DModel:
    """LTX-Video's DiT."""
    return load_diffusers(LTXVideoTransformer3DModel, source, "transformer", dtype)


def load_vae(source: Source, *, dtype: torch.dtype = torch.float32) -> AutoencoderKLLTXVideo:
    """LTX-Video's VAE."""
    return load_diffusers(AutoencoderKLLTXVideo, source, "vae", dtype)


def load_connector(source: Source) -> Connector:
    """Queries and connector, always in fp32: they are small and may be trained."""
    return load_diffusers(Connector, source, "connector", torch.float32)


def save_policy(
    folder: Path,
    *,
    geometry: Geometry,
    comprehension: Comprehension | None = None,
    transformer: LTXVideoTransformer3DModel | None = None,
    vae: AutoencoderKLLTXVideo | None = None,
    scheduler: FlowMatchEulerDiscreteScheduler | None = None,
    connector: Connector | None = None,
    half: bool = False,
    rest_from: Path | None = None,
) -> None:
    """Write a policy folder whole: beside its place first, then renamed over it.

    Args:
        folder: replaced if it exists.
        geometry: the clips the policy makes.
        comprehension: this and the four below: the parts to write.
        transformer: without an adapter; merge one first.
        vae: with its ``latents_mean`` and ``latents_std`` set.
        scheduler: the schedule it samples with.
        connector: with its queries.
        half: store weights in fp16; ``load_*`` widen them again.
        rest_from: a policy folder whose files stand in, copied as they are, for parts not given.
    """
    folder = Path(folder)
    aside = folder.with_name(f".{folder.name}.writing-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for part in files.PARTS:
        if rest_from is not None and (Path(rest_from) / part).is_dir():
            shutil.copytree(Path(rest_from) / part, aside / part)
    if comprehension is not None:
        place = _fresh(aside / "comprehension")
        with without_bars():
            _halved(comprehension.model, half).save_pretrained(place)
        comprehension.tokenizer.save_pretrained(place)
        comprehension.image_processor.save_pretrained(place)
    for part, model in (("transformer", transformer), ("vae", vae), ("connector", connector)):
        if model is not None:
            _halved(model, half).save_pretrained(_fresh(aside / part), safe_serialization=True)
    if scheduler is not None:
        scheduler.save_pretrained(_fresh(aside / "scheduler"))
    content = {"format": files.FORMAT, "version": files.VERSION, **asdict(geometry)}
    (aside / "policy.json").write_text(json.dumps(content, indent=2) + "\n")
    mode = (aside / "policy.json").stat().st_mode  # safetensors writes files that only their owner may read
    for path in aside.rglob("*.safetensors"):
        path.chmod(mode)
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    if folder.exists():
        folder.rename(old)
    aside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _halved(model: Any, half: bool) -> Any:
    return copy.deepcopy(model).half() if half else model


def _source(source: Source, folder: Path | None, part: str) -> Source | None:
    if source.path is not None:
        return source
    return replace(source, path=str(folder / part)) if folder else None


def need(sources: dict[str, Source | None], part: str) -> Source:
    """The part's place.

    Raises:
        ConfigError: it has none.
    """
    if (source := sources[part]) is None:
        raise ConfigError(f"policy.config.{part}.path: without policy.config.folder it must be given.")
    return source
