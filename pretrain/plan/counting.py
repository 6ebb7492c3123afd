"""What a step of a stage takes, counted on tensors that are not there, by the stage's own loss.

Shapes: b clips of a forward, N latent tokens, C their channels, Q queries, W width of Qwen.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from policies import ltx
from policies.latents import draw
from policies.outlines import TEXT_TOKENS
from policies.unified.model import UnifiedModel
from pretrain.diffusion import DiffusionConfig, FlowLoss, prepare
from pretrain.examples import Batch, Shape
from pretrain.loop import LoopConfig
from pretrain.plan.outline import Parts, model_of
from pretrain.sources import geometry_of
from rlnsp.distributed import Ranks
from rlnsp.plan.costs import Cost
from rlnsp.plan.spread import Spreadable
from rlnsp.plan.tally import Tally, tallied
from rlnsp.types import Scene

FEW = 12
"""Blocks and layers that are counted in less time than it takes to count some twice."""
Work = Callable[[UnifiedModel], tuple[nn.Module, Callable[[], Any]]]
"""Of a model on the meta device: a module that has all that was there before, and what is to be counted."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Sizes of a model as a stage has it."""

    frozen: Mapping[str, float]
    """Bytes by part, the DiT left out."""
    trained: int
    """Numbers beside the DiT that it trains."""
    dit: Spreadable
    trains_dit: bool
    largest: int
    """Numbers of the largest weight that is trained."""


class Counts:
    """What training, a held-out loss, encoding and reading take; each is counted once."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._known: dict[str, Cost] = {}
        self._numbers: dict[tuple[str, ...], Numbers] = {}

    def numbers(self, config: DiffusionConfig) -> Numbers:
        """What of the model a stage leaves frozen and what it trains."""
        key = config.precision, *config.train
        if key not in self._numbers:
            self._numbers[key] = self._sizes(config)
        return self._numbers[key]

    def _sizes(self, config: DiffusionConfig) -> Numbers:
        model = model_of(self.parts)
        prepare(model, config)
        dit = model.transformer
        beside = [value for value in model.connector.parameters() if value.requires_grad]
        rest = [value for value in model.connector.parameters() if not value.requires_grad]
        blocks = [_bytes(block.parameters()) for block in dit.get_submodule("transformer_blocks").children()]
        frozen = {"Qwen": _bytes(model.comprehension.parameters()), "VAE": _bytes(model.vae.parameters())}
        if rest:
            frozen["connector, frozen"] = _bytes(rest)
        whole = _bytes(dit.parameters())
        return Numbers(
            frozen=frozen,
            trained=sum(value.numel() for value in beside),
            dit=Spreadable(bytes=whole, block=max(blocks), outside=whole - sum(blocks)),
            trains_dit="transformer" in config.train,
            largest=max(value.numel() for value in model.parameters() if value.requires_grad),
        )

    def numbers_of_latent(self, shape: Shape) -> int:
        """N C, of a clip."""
        model = model_of(self.parts, blocks=1, layers=1)
        transformer: Any = model.transformer
        return model.grid(geometry_of(model, shape)).num_tokens * transformer.config["in_channels"]

    def of_training(
        self, config: DiffusionConfig, shape: Shape, clips: int, parts: int, *, kept: bool
    ) -> Cost:
        """Forward and backward of ``clips`` clips, ``parts`` times one after the other; gradients included.

        Args:
            config: of the stage.
            shape: of the clips.
            clips: of each.
            parts: two are as any more: the gradient of the first is there while the second is computed.
            kept: whether what Qwen says is there already.
        """
        key = f"{parts} trainings of {clips} {shape} {kept}"

        def work(model: UnifiedModel) -> tuple[nn.Module, Callable[[], Any]]:
            return _loss(model, config, shape, clips, parts, kept=kept, train=True)

        return self._once(key, config, work)

    def of_heldout(self, config: DiffusionConfig, shape: Shape, clips: int, *, kept: bool) -> Cost:
        """The loss of ``clips`` clips at once, without gradient."""

        def work(model: UnifiedModel) -> tuple[nn.Module, Callable[[], Any]]:
            return _loss(model, config, shape, clips, 1, kept=kept, train=False)

        return self._once(f"losses of {clips} {shape} {kept}", config, work)

    def of_reading(self, config: DiffusionConfig) -> Cost:
        """What Qwen says of one text, without gradient."""

        def work(model: UnifiedModel) -> tuple[nn.Module, Callable[[], Any]]:
            return model, torch.no_grad()(lambda: model.read_texts([""]))

        return self._once("reading", config, work)

    def of_encoding(self, shape: Shape, clips: int) -> Cost:
        """Latents of so many clips at once."""
        key = f"encoding of {clips} {shape}"
        if key not in self._known:
            model = model_of(self.parts, blocks=1, layers=1)

            @torch.no_grad()
            def work() -> None:
                pixels = torch.empty(clips, 3, *shape)
                posterior = model.vae.encode(pixels, return_dict=False)[0]
                ltx.normalise(draw(posterior, None), model.vae)

            self._known[key] = _cost(tallied(model, work))
        return self._known[key]

    def _once(self, key: str, config: DiffusionConfig, work: Work) -> Cost:
        """By all blocks of the DiT and layers of Qwen, or where they are many by two and three of each."""
        alike = replace(config, manifest="", loop=LoopConfig(), micro_batch_size=None)
        key += json.dumps(asdict(alike))
        if key not in self._known:
            numbers = self.parts.blocks, self.parts.layers
            few = sum(numbers) <= FEW
            self._known[key] = (
                _cost(self._tallied(*numbers, config, work)) if few else self._told(config, work)
            )
        return self._known[key]

    def _told(self, config: DiffusionConfig, work: Work) -> Cost:
        """By two and three, which tell what all take: what a block adds, it adds each time."""
        few = whole = _cost(self._tallied(2, 2, config, work))
        for number, at in ((self.parts.blocks, (3, 2)), (self.parts.layers, (2, 3))):
            more = _cost(self._tallied(*at, config, work))
            whole = Cost(
                flops=whole.flops + (number - 2) * (more.flops - few.flops),
                bytes=whole.bytes + (number - 2) * (more.bytes - few.bytes),
            )
        return whole

    def _tallied(self, blocks: int, layers: int, config: DiffusionConfig, work: Work) -> Tally:
        model = model_of(self.parts, blocks=blocks, layers=layers, words=self._words(config))
        prepare(model, config)
        transformer: Any = model.transformer
        if config.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        with warnings.catch_warnings():  # of a norm under autocast, where it does not matter how fast it is
            warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
            return tallied(*work(model))

    def _words(self, config: DiffusionConfig) -> int:
        """Tokens that a text has, with those of the preceding clip's frames at their largest."""
        if not config.context_clips:
            return TEXT_TOKENS
        limits, queries = config.limits, self.parts.connector["num_queries"]
        frames = limits.clip_frames * (limits.clip_max_pixels // self.parts.image_edge**2)
        return min(TEXT_TOKENS + frames, limits.max_length - queries)


def _loss(
    model: UnifiedModel,
    config: DiffusionConfig,
    shape: Shape,
    clips: int,
    parts: int,
    *,
    kept: bool,
    train: bool,
) -> tuple[nn.Module, Callable[[], Any]]:
    transformer: Any = model.transformer
    n = clips * parts
    tokens = model.grid(geometry_of(model, shape)).num_tokens
    queries, width = model.connector.queries.shape
    there = nn.Module()
    there.model = model
    with torch.device("meta"):
        there.register_buffer("latents", torch.empty(n, tokens, transformer.config["in_channels"]))
        there.register_buffer("hidden", torch.empty(n, queries, width) if kept else None)

    def work() -> None:
        hidden: Tensor | None = there._buffers["hidden"]
        batch = Batch(
            scenes=[Scene(id="", context="", caption="")] * n,
            shape=shape,
            latents=there.get_buffer("latents"),
            hidden=hidden,
            contexts=[None] * n,
            here=torch.arange(n),
            total=n,
        )
        flow = FlowLoss(model, replace(config, micro_batch_size=clips), Ranks())
        with torch.set_grad_enabled(train):
            for part in flow(batch, torch.Generator(), config.drop):
                if train:
                    part.backward()

    return there, work


def _cost(tally: Tally) -> Cost:
    return Cost(flops=tally.flops, bytes=tally.peak)


def _bytes(values: Iterable[Tensor]) -> float:
    return float(sum(value.numel() * value.element_size() for value in values))
