"""Flow-matching stages: text-to-video pre-training and supervised fine-tuning on next-scene pairs.

Shapes: R rows of the data, B of a batch, N latent tokens, C their channels.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from policies.latents import Geometry
from policies.ltx import shift_exponent
from policies.unified.model import TRAINABLE, UnifiedModel
from policies.unified.settings import Limits
from pretrain.batches import ClipBatches, first_examples
from pretrain.clips import Clips
from pretrain.examples import Batch, Source
from pretrain.local_shards import SpreadDiT
from pretrain.loop import HELD_OUT_ROWS, LoopConfig, fit
from pretrain.skipped import Skipped
from pretrain.sources import TEMPLATES, Text, geometry_of, text_of
from pretrain.zero_shards import ZeroModel
from rlnsp.atomic import written_whole
from rlnsp.distributed import Ranks
from rlnsp.manifest import ManifestError
from rlnsp.settings import ConfigError
from rlnsp.types import Condition, Scene
from rlnsp.zero import Zero

Compute = Callable[[Callable[[], Tensor]], Tensor]
"""What calls the work that it is given, which computes a loss."""

HELD_OUT_AT_ONCE = 64
"""Clips whose noise is drawn together when the held-out loss is measured."""


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """One sub-stage: what it trains, on which texts, for how long."""

    manifest: str = ""
    """A data set of its own, in the place of ``data.manifest``."""
    train: list[str] = field(default_factory=lambda: ["queries", "connector", "transformer"])
    """Of queries, connector, transformer; the rest is frozen."""
    text: Text = "caption"
    """What the model reads."""
    drop: float = 0.1
    """Share of rows whose text is dropped, which classifier-free guidance needs; 1: of all of them."""
    context_clips: bool = False
    """Beside the preceding scene's words the model reads frames of its clip (``context_clip``), where there
    is one, as the policy does in stage 3 unless it is told otherwise."""
    limits: Limits = field(default_factory=Limits)
    """How much of words and frames it reads, as ``policy.config.limits`` says of stage 3."""
    first_frame: float = 0.0
    """Share of rows whose first latent frame is given as it is, for the model to go on from: what a policy
    with ``first_frame: context`` is asked to do.  The loss is over the others.  A picture has no others, and
    is never given."""
    sigma_mean: float = 0.0
    sigma_std: float = 1.0
    """Of the logit-normal (arXiv:2403.03206, section 3.1) that sigma is drawn from, before it is shifted."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of each forward, by autocast; weights and loss stay fp32."""
    gradient_checkpointing: bool = False
    """Compute the DiT's activations again in the backward pass in place of keeping them: less memory, a third
    more time, the same numbers."""
    micro_batch_size: int | None = None
    """Clips of a forward and its backward; None: all that a process has of a batch.  Memory and speed
    alone."""
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if not self.train or not set(self.train) <= set(TRAINABLE) - {"vae"}:
            given = ", ".join(self.train) or "none"
            raise ConfigError(f"train must name some of queries, connector, transformer; got {given}")
        if not 0 <= self.drop <= 1:
            raise ConfigError(f"drop must be in [0, 1]; got {self.drop}")
        if self.context_clips and self.text != "context":
            raise ConfigError(
                f"context_clips: they are clips of the preceding scene, but text is {self.text}; set "
                "text=context, or context_clips=false"
            )
        if not 0 <= self.first_frame <= 1:
            raise ConfigError(f"first_frame must be in [0, 1], a share of the rows; got {self.first_frame}")
        if self.sigma_std < 0:
            raise ConfigError(f"sigma_std must be 0 or more; got {self.sigma_std}")
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise ConfigError(
                f"micro_batch_size must be at least 1, or null for none; got {self.micro_batch_size}"
            )


def encode_clips(model: UnifiedModel, clips: Clips, path: Path) -> Tensor:
    """Latents (R, N, C) fp32 of every clip.

    They are kept at ``path``, and read from there while neither the VAE nor the clips change.
    """
    weights = [value.detach().float().cpu().numpy() for value in model.vae.state_dict().values()]
    source = {"vae": _digest(*weights), "clips": _digest(clips.frames)}
    if path.is_file():
        with safe_open(path, framework="pt") as file:
            if file.metadata() == source:
                return file.get_tensor("latents")
    rows = range(0, len(clips.frames), 64)
    latents = torch.cat([model.encode_frames(clips.frames[row : row + 64]) for row in rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as aside:
        save_file({"latents": latents}, aside, metadata=source)
    return latents


def check_captions(scenes: Iterable[Scene]) -> None:
    """Raise ManifestError for a scene without a caption, which learning from captions needs."""
    for scene in scenes:
        if not scene.caption:
            raise ManifestError(
                f"scene {scene.id!r} has no caption, which this stage learns from; give it one"
            )


def check_context_clips(source: Source) -> None:
    """Raise ManifestError unless there is one clip of a preceding scene at least."""
    if not any(source.scene(row).context_clip for row in range(len(source))):
        raise ManifestError(
            "context_clips: no scene has a context_clip to read; name them in the data, or set "
            "context_clips=false"
        )


def prepare(model: UnifiedModel, config: DiffusionConfig) -> None:
    """What it trains has gradients, and it reads and computes as it will in training."""
    model.train_only(*config.train)
    model.comprehension.limits = config.limits
    model.compute_dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    if config.precision == "bf16":
        model.comprehension.to(torch.bfloat16)  # frozen, and by far the largest part


def train_diffusion(
    name: str,
    config: DiffusionConfig,
    model: UnifiedModel,
    data: Mapping[str, Source],
    folder: Path,
    workers: int = 0,
    ranks: Ranks | None = None,
) -> None:
    """Train parts of ``model`` in place.

    Args:
        name: Of the sub-stage.
        config: What and how.
        model: On its device; frozen again on return.
        data: 'train' and 'heldout'.
        folder: For metrics, the checkpoint, and the list of clips that cannot be used.
        workers: Threads that load clips ahead.
        ranks: The processes that train together, each with the model.  Where they hold the DiT together, only
            rank 0 has all of it on return, on the CPU.

    Raises:
        ConfigError: a scene without the text that is trained on, or no held-out clip that can be used; and as
            ``pretrain.loop.fit``.
    """
    ranks = ranks or Ranks()
    if config.text == "caption" and config.drop < 1:
        check_captions(source.scene(row) for source in data.values() for row in range(len(source)))
    if config.context_clips and config.drop < 1:
        check_context_clips(data["train"])
    prepare(model, config)
    transformer: Any = model.transformer
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    skipped = Skipped(folder / "skipped.jsonl", writes=ranks.main)
    how = ranks.sharding
    if isinstance(how, Zero):
        spread = ZeroModel(model, ["transformer", "connector"], ranks, how)
    else:
        spread = SpreadDiT(model, ranks)
    flow = FlowLoss(model, config, ranks, spread.compute)
    # Before the first step: where none can be used, that is no news to have at the first evaluation.
    heldout = first_examples(data["heldout"], HELD_OUT_ROWS, skipped, ranks, "held-out ")

    def heldout_loss() -> float:
        # The same noise each time: the curve then shows the model, not the draw.
        generator = torch.Generator().manual_seed(0)
        drop = 1.0 if config.drop == 1 else 0.0
        parts = [part for batch in heldout for part in batch.split(HELD_OUT_AT_ONCE)]
        own = [sum(value.item() for value in flow(part, generator, drop)) for part in parts]
        spread.forget()
        whole = [sum(values) for values in zip(*ranks.exchange(own), strict=True)]
        return torch.tensor(whole).mean().item()

    batches = ClipBatches(data["train"], config.loop.batch_size, config.loop.seed, skipped, workers, ranks)
    try:
        with spread.together():
            fit(
                name,
                spread.shards({k: v for k, v in model.named_parameters() if v.requires_grad}),
                lambda batch, generator: flow(batch, generator, config.drop),
                heldout_loss,
                batches,
                config.loop,
                folder,
                ranks,
            )
    finally:
        batches.close()
    spread.join()
    model.train_only()
    model.compute_dtype = torch.float32
    if config.gradient_checkpointing:
        transformer.disable_gradient_checkpointing()


def _call(work: Callable[[], Tensor]) -> Tensor:
    return work()


class FlowLoss:
    """The flow-matching loss of a batch, as far as it is in this process."""

    def __init__(
        self, model: UnifiedModel, config: DiffusionConfig, ranks: Ranks, compute: Compute = _call
    ) -> None:
        self.model, self.config, self.ranks, self.compute = model, config, ranks, compute
        self._null: Tensor | None = None

    def __call__(self, batch: Batch, generator: torch.Generator, drop: float) -> Iterator[Tensor]:
        """Micro-batch by micro-batch a scalar; over all processes they sum to the mean over the batch's B.

        Whatever is drawn is drawn for all B, so that no number depends on who has which.

        Args:
            batch: with b of B examples.
            generator: in the same state in every process.
            drop: the share whose text is dropped.
        """
        model, config, n = self.model, self.config, batch.total
        geometry = geometry_of(model, batch.shape)
        transformer: Any = model.transformer
        normal = torch.randn(n, generator=generator)
        sigma = torch.sigmoid(config.sigma_mean + config.sigma_std * normal)
        shift = _shift(model, geometry)
        sigma = shift * sigma / (1 + (shift - 1) * sigma)
        size = n, model.grid(geometry).num_tokens, transformer.config["in_channels"]
        noise = torch.randn(size, generator=generator)
        dropped = torch.rand(n, generator=generator) < drop
        given = None
        if config.first_frame and model.grid(geometry).tokens[0] > 1:
            given = torch.rand(n, generator=generator) < config.first_frame
        own = [*range(len(batch.scenes))]
        at_once = config.micro_batch_size or max(len(own), 1)
        parts = [own[first : first + at_once] for first in range(0, len(own), at_once)]
        # Where the DiT computes only if all processes do, they must do so as often, forward and backward.
        counts, kept = [len(parts)], False
        if self.ranks.sharded:
            said = self.ranks.exchange([len(parts), batch.hidden is not None])
            counts, kept = [count for count, _ in said], any(kept for _, kept in said)

        def loss(part: Batch) -> Tensor:
            assert part.latents is not None
            x0, here = part.latents.to(model.device), part.here
            at, with_noise, without_text = (value[here].to(model.device) for value in (sigma, noise, dropped))
            condition = self._condition(part)
            first = given[here].to(model.device) if given is not None else None
            losses = model.flow_loss(x0, at, with_noise, condition, without_text, geometry, first)
            return losses.sum() / n

        for rows in parts:
            yield self.compute(partial(loss, batch.take(rows)))
        for _ in range(max(counts) - len(parts)):
            yield self.compute(partial(self._idle, size[1:], geometry, kept=kept))

    def _idle(self, latent: tuple[int, int], geometry: Geometry, *, kept: bool) -> Tensor:
        """Zero, by way of all that others compute with; ``kept``: they have what Qwen says."""
        model = self.model
        nothing, at = torch.zeros(1, *latent, device=model.device), torch.ones(1, device=model.device)
        if kept:
            idle = model.translate(torch.cat([self._null_hidden()] * 2))
        else:
            idle = model.encode_texts([""], template=TEMPLATES[self.config.text])
        return 0 * model.flow_loss(nothing, at, nothing, idle, geometry=geometry).sum()

    def _condition(self, batch: Batch) -> Condition:
        model = self.model
        if batch.hidden is None:
            texts = [text_of(scene, self.config.text) for scene in batch.scenes]
            template = TEMPLATES[self.config.text]
            return model.encode_texts(texts, template=template, clips=batch.contexts)
        return model.translate(torch.cat([batch.hidden.to(model.device), self._null_hidden()]))

    def _null_hidden(self) -> Tensor:
        if self._null is None:
            self._null = self.model.read_texts([])  # as frozen as the rest
        return self._null


def _shift(model: UnifiedModel, geometry: Geometry | None = None) -> float:
    """The factor by which the sampler's schedule shifts sigma."""
    return math.exp(shift_exponent(model.scheduler, model.grid(geometry).num_tokens))


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
