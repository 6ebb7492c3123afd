"""Do published checkpoints load?  At full size, by the policies' own loaders, without a download.

``python -m benchmarks.published_checkpoints [--write docs/scale.md]``

Of each part the library's class is built from the published settings on the meta device, which tells names
and shapes.  A checkpoint of them, in the hub's layout and under the hub's names, is laid out with holes in
the place of weights (``benchmarks.sparse_checkpoint``), and a whole policy is opened from such parts: every
name and shape must be taken, the widths must fit, LoRA must find its layers.  Where the hub's index or file
has a size, ours must have it to the byte; the file's includes the header, and so every name and shape.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import torch
import transformers
from torch import nn
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from benchmarks.pages import fill, page_to_write
from benchmarks.random_wan import letters
from benchmarks.sparse_checkpoint import lay_out, shapes_of
from policies.lora import add_lora
from policies.ltx import ltx_scheduler
from policies.ltx_video.policy import LTXVideoSettings
from policies.published import PARTS, Part
from policies.settings import Lora, Source
from policies.unified import Unified
from policies.wan.policy import WanSettings
from pretrain.tokenizer import byte_tokenizer

MARKS = ("<!-- published checkpoints -->", "<!-- /published checkpoints -->")
CLIP = {"num_frames": 65, "height": 480, "width": 832, "fps": 16.0}
"""The paper's."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A policy opened from hollow checkpoints."""

    name: str
    parts: dict[str, nn.Module]
    """By the part's name in ``PARTS``."""
    lora_layers: int
    lora_parameters: int
    tokens: int
    """Latent tokens of the paper's clip."""
    connector: str = ""
    """Its widths."""


def on_meta(part: Part) -> nn.Module:
    """The library's class from the published settings, without weights."""
    with torch.device("meta"):
        if part.library == "diffusers":
            kind: Any = getattr(diffusers, part.class_name)
            return kind.from_config(dict(part.config))
        model: Any = getattr(transformers, part.class_name)
        return model(model.config_class.from_dict(dict(part.config)))


def parameters(model: nn.Module) -> int:
    """Their number; a tied one counts once."""
    return sum(value.numel() for value in model.parameters())


def publish(folder: Path, name: str, dtype: str | None = None) -> int:
    """Lay a part out as the hub does; the bytes of its weight files, holes included."""
    part = PARTS[name]
    is_diffusers = part.library == "diffusers"
    config = {"_class_name": part.class_name, **part.config} if is_diffusers else part.config
    stem = "diffusion_pytorch_model" if is_diffusers else "model"
    shapes = shapes_of(on_meta(part), part.renamed)
    return lay_out(folder, config, shapes, dtype or part.dtype, part.shards, stem)


def taken(name: str, loaded: nn.Module) -> None:
    """Every tensor of the published layout is in ``loaded``, and nothing else is.

    Raises:
        AssertionError: what differs.
    """
    there, here = shapes_of(on_meta(PARTS[name]), {}), shapes_of(loaded, {})
    assert there == here, f"{name}: {sorted(set(there.items()) ^ set(here.items()))[:4]}"
    assert not any(value.is_meta for value in loaded.state_dict().values()), f"{name}: weights are missing"


def open_unified(root: Path, transformer: str = "ltx", vae: str = "ltx_vae") -> Opened:
    """The paper's model: Qwen2.5-VL-7B, LTX-Video, a fresh connector of 256 queries."""
    from policies.unified.weights import load_model

    for name in ("qwen", transformer, vae):
        publish(root / name, name, "bf16")
    byte_tokenizer().save_pretrained(root / "qwen")
    Qwen2VLImageProcessorPil().save_pretrained(root / "qwen")
    ltx_scheduler().save_pretrained(root / "scheduler")
    places = {"comprehension": "qwen", "transformer": transformer, "vae": vae, "scheduler": "scheduler"}
    sources: dict[str, Any] = {part: Source(path=str(root / place)) for part, place in places.items()}
    clip: dict[str, Any] = CLIP
    model = load_model(Unified.Config(folder=None, dtype="bf16", **clip, **sources))
    parts = {"qwen": model.comprehension.model, transformer: model.transformer, vae: model.vae}
    for name, loaded in parts.items():
        taken(name, loaded)
    widths = model.connector.config
    found = _lora(model.transformer)
    return Opened(
        name=f"unified ({transformer})",
        parts=parts,
        lora_layers=found[0],
        lora_parameters=found[1],
        tokens=model.grid().num_tokens,
        connector=f"{widths['num_queries']} x {widths['width']} -> {widths['hidden']} -> {widths['out']}",
    )


def open_pipeline(root: Path, use: str) -> Opened:
    """LTX-Video or Wan2.1 as its authors ship it."""
    from policies.ltx_video import model as ltx_video
    from policies.wan import model as wan

    own = {"ltx_video": ("ltx", "ltx_vae", "t5"), "wan": ("wan", "wan_vae", "umt5")}[use]
    places = dict(zip(("transformer", "vae", "text_encoder"), own, strict=True))
    for place, name in places.items():
        publish(root / place, name, "fp32")
    letters().save_pretrained(root / "tokenizer")
    scheduler = {"_class_name": "UniPCMultistepScheduler", "num_train_timesteps": 1000, "flow_shift": 3.0}
    if use == "wan":
        (root / "scheduler").mkdir()
        (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    else:
        ltx_scheduler().save_pretrained(root / "scheduler")
    kind = {"ltx_video": "LTXPipeline", "wan": "WanPipeline"}[use]
    (root / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    clip: dict[str, Any] = CLIP
    if use == "wan":
        model: Any = wan.load_model(WanSettings(folder=str(root), **clip))
    else:
        model = ltx_video.load_model(LTXVideoSettings(folder=str(root), **clip))
    parts = {name: getattr(model, place) for place, name in places.items()}
    for name, loaded in parts.items():
        taken(name, loaded)
    layers, size = _lora(model.transformer)
    return Opened(
        name=use, parts=parts, lora_layers=layers, lora_parameters=size, tokens=model.grid.num_tokens
    )


def _lora(transformer: nn.Module) -> tuple[int, int]:
    """Layers that the default adapter finds, and its parameters."""
    lora = Lora()
    adapted = add_lora(transformer, rank=lora.rank, alpha=lora.alpha, targets=lora.targets, seed=lora.seed)
    own = {name: value for name, value in adapted.named_parameters() if "lora_" in name}
    layers, size = sum("lora_A" in name for name in own), sum(value.numel() for value in own.values())
    adapted.unload()
    return layers, size


def figures(part: Part) -> dict[str, Any]:
    """Parameters and file of a part, beside what is published."""
    model = on_meta(part)
    found: dict[str, Any] = {
        "parameters": parameters(model),
        "tensors": len(shapes_of(model, part.renamed)),
        "published": part.parameters,
        "agrees": None if part.parameters is None else parameters(model) == part.parameters,
    }
    if part.file_bytes is not None:
        with TemporaryDirectory() as folder:
            shapes = shapes_of(model, part.renamed)
            written = lay_out(Path(folder), part.config, shapes, part.dtype, 1, "weights")
        found |= {"file_bytes": written, "agrees": written == part.file_bytes}
    return found


def table(opened: Mapping[str, Opened]) -> str:
    """Markdown: the parts, then the policies."""
    lines = [
        "| checkpoint | class | tensors | parameters | published | agrees |",
        "|---|---|---|---|---|---|",
    ]
    for part in PARTS.values():
        found = figures(part)
        says = {None: "", True: "exactly", False: "**no**"}[found["agrees"]]
        lines.append(
            f"| {part.hub} | `{part.class_name}` | {found['tensors']:,} | {found['parameters']:,} | "
            f"{part.source} | {says} |"
        )
    lines += [
        "",
        "| policy | opened from | LoRA 16 finds | its parameters | tokens of 65 x 480 x 832 | connector |",
    ]
    lines += ["|---|---|---|---|---|---|"]
    for one in opened.values():
        sizes = ", ".join(f"{name} {parameters(part) / 1e9:.2f}B" for name, part in one.parts.items())
        lines.append(
            f"| `{one.name}` | {sizes} | {one.lora_layers} layers | {one.lora_parameters:,} | "
            f"{one.tokens:,} | {one.connector} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Check, print, and write where asked."""
    page = page_to_write(__doc__, MARKS)
    opened: dict[str, Opened] = {}
    for name, how in (
        ("unified", lambda root: open_unified(root)),
        ("unified 13b", lambda root: open_unified(root, "ltx_13b", "ltx_vae_095")),
        ("ltx_video", lambda root: open_pipeline(root, "ltx_video")),
        ("wan", lambda root: open_pipeline(root, "wan")),
    ):
        with TemporaryDirectory() as folder:
            opened[name] = how(Path(folder))
        print(f"{name}: loads", flush=True)
    text = table(opened)
    print(text)
    if page:
        fill(page, text, MARKS)


if __name__ == "__main__":
    main()
