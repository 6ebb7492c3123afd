"""Flow-matching stages: text-to-video pre-training and supervised fine-tuning on next-scene pairs.

Shapes: R rows of the data, B of a batch, N latent tokens, C their channels.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from policies.unified.comprehension import CAPTION, NEXT_SCENE
from policies.unified.model import TRAINABLE, UnifiedModel
from pretrain.clips import Clips
from pretrain.loop import LoopConfig, fit
from rlnsp.settings import ConfigError

HELD_OUT_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """One sub-stage: what it trains, on which texts, for how long."""

    train: list[str] = field(default_factory=lambda: ["queries", "connector", "transformer"])
    """Of queries, connector, transformer; the rest is frozen."""
    text: Literal["caption", "context"] = "caption"
    """What the model reads: the clip's own caption, or the scene before it."""
    drop: float = 0.1
    """Share of rows whose text is dropped, which classifier-free guidance needs; 1 trains without any text."""
    sigma_mean: float = 0.0
    sigma_std: float = 1.0
    """Of the logit-normal that sigma is drawn from (arXiv:2403.03206, section 3.1), before the schedule's shift."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of each forward, by autocast; weights and loss stay fp32."""
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if not self.train or (unknown := set(self.train) - (set(TRAINABLE) - {"vae"})):
            raise ConfigError(
                f"train must name some of queries, connector, transformer; got {self.train or unknown}"
            )
        if not 0 <= self.drop <= 1:
            raise ConfigError(f"drop must be in [0, 1]; got {self.drop}")


def encode_clips(model: UnifiedModel, clips: Clips, path: Path) -> Tensor:
    """Latents (R, N, C) fp32 of every clip; kept at ``path``, and read from there the next time."""
    if path.is_file():
        return load_file(path)["latents"]
    rows = range(0, len(clips.frames), 64)
    latents = torch.cat([model.encode_frames(clips.frames[row : row + 64]) for row in rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    save_file({"latents": latents}, aside)
    aside.replace(path)
    return latents


def train_diffusion(
    name: str,
    config: DiffusionConfig,
    model: UnifiedModel,
    data: dict[str, tuple[Clips, Tensor]],
    folder: Path,
) -> None:
    """Train parts of ``model`` in place.

    Args:
        name: Of the sub-stage.
        config: What and how.
        model: On its device; frozen again on return.
        data: 'train' and 'heldout': clips and their latents (R, N, C).
        folder: For metrics and the checkpoint.
    """
    model.train_only(*config.train)
    model.compute_dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    template = CAPTION if config.text == "caption" else NEXT_SCENE
    shift = _shift(model)

    def loss_of(split: str, rows: Tensor, generator: torch.Generator, drop: float) -> Tensor:
        clips, latents = data[split]
        scenes = [clips.scenes[row] for row in rows.tolist()]
        texts = [(scene.caption or "") if config.text == "caption" else scene.context for scene in scenes]
        x0 = latents[rows]
        normal = torch.randn(len(rows), generator=generator)
        sigma = torch.sigmoid(config.sigma_mean + config.sigma_std * normal)
        sigma = shift * sigma / (1 + (shift - 1) * sigma)
        noise = torch.randn(x0.shape, generator=generator)
        dropped = torch.rand(len(rows), generator=generator) < drop
        condition = model.encode_texts(texts, template=template)
        return model.flow_loss(x0, sigma, noise, condition, dropped).mean()

    def heldout_loss() -> float:
        # The same noise each time: the curve then shows the model, not the draw.
        generator = torch.Generator().manual_seed(0)
        rows = torch.arange(min(HELD_OUT_ROWS, len(data["heldout"][0].scenes))).split(64)
        drop = 1.0 if config.drop == 1 else 0.0
        return torch.stack([loss_of("heldout", part, generator, drop) for part in rows]).mean().item()

    fit(
        name,
        {key: value for key, value in model.named_parameters() if value.requires_grad},
        lambda rows, generator: loss_of("train", rows, generator, config.drop),
        heldout_loss,
        len(data["train"][0].scenes),
        config.loop,
        folder,
    )
    model.train_only()
    model.compute_dtype = torch.float32


def _shift(model: UnifiedModel) -> float:
    """The factor by which LTX shifts sigma for this number of tokens: e^mu, mu linear in the tokens."""
    c = model.scheduler.config
    slope = (c["max_shift"] - c["base_shift"]) / (c["max_image_seq_len"] - c["base_image_seq_len"])
    return math.exp(c["base_shift"] + slope * (model.grid().num_tokens - c["base_image_seq_len"]))
