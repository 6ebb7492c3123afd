"""The plug-in: a unified model whose DiT carries the adapter that RL trains.  Cheap to import."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from policies.first_frame import first_frames, require_context_clips
from policies.settings import FirstFrame, Lora, Source, require_positive
from policies.unified.files import PARTS
from policies.unified.settings import Limits

if TYPE_CHECKING:
    import numpy as np
    from torch import Generator, Tensor, nn
    from torch.nn import Parameter

    from policies.unified.connector import Connector
    from policies.unified.model import UnifiedModel
    from rlnsp.plan.outline import Outline
    from rlnsp.types import Condition, Scene, Video


class Unified:
    """Next-scene prediction by the paper's unified model (arXiv 2512.13015), ready for RL."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Which weights, and what of them is trained."""

        folder: str | None = "world"
        """A policy folder; ``world`` is the shipped one.  None: every part is given below."""
        comprehension: Source = field(default_factory=Source)
        """Qwen2.5-VL with tokenizer and image processor, in place of the folder's.  So are the next four."""
        transformer: Source = field(default_factory=Source)
        vae: Source = field(default_factory=Source)
        scheduler: Source = field(default_factory=Source)
        connector: Source = field(default_factory=Source)
        num_frames: int | None = None
        """Of the clips made.  None here and in the next three: as the folder says."""
        height: int | None = None
        width: int | None = None
        fps: float | None = None
        num_queries: int = 256
        """Of a fresh connector, made only if there is neither a folder nor a connector."""
        connector_hidden: int | None = None
        """Width inside a fresh connector.  None: the transformer's caption_channels."""
        limits: Limits = field(default_factory=Limits)
        context_clips: bool = True
        """Show Qwen the frames of a scene's ``context_clip``, where it has one; else the words alone."""
        first_frame: FirstFrame = "none"
        """What a clip begins with; see there."""
        lora: Lora = field(default_factory=Lora)
        train_connector: bool = False
        train_queries: bool = False
        dtype: Literal["fp32", "bf16"] = "fp32"
        """Of the frozen weights and of each forward; what is trained stays fp32."""
        device: str = "auto"
        """``auto``: the current CUDA device if there is one, else the CPU."""
        offload: list[Literal["comprehension", "vae"]] = field(default_factory=list)
        """Parts that wait on the CPU while they are not used, so that the DiT has the device's memory."""
        gradient_checkpointing: bool = False
        decode_timestep: float = 0.05
        """For VAEs with timestep conditioning (LTX 0.9.5 on)."""
        decode_noise_scale: float = 0.025
        decode_batch_size: int = 16
        """Clips decoded at a time."""

        def __post_init__(self) -> None:
            sizes = ("num_frames", "height", "width", "fps", "num_queries", "connector_hidden")
            require_positive(self, (*sizes, "decode_batch_size"))
            if self.dtype not in ("fp32", "bf16"):
                raise ValueError(f"dtype={self.dtype!r}: must be fp32 or bf16.")
            if self.train_queries and "comprehension" in self.offload:
                raise ValueError(
                    "offload: comprehension cannot wait elsewhere while train_queries is true, whose "
                    "gradient goes through it; leave it out, or set train_queries=false."
                )

    def __init__(self, config: Config, model: UnifiedModel | None = None) -> None:
        """Load what ``config`` names, or take ``model``, and add a zero adapter to its DiT.

        Raises:
            ConfigError: settings that the weights cannot meet; a missing or damaged file.
        """
        from policies.lora import add_lora
        from policies.unified.weights import load_model
        from rlnsp.pretrained import device_of

        self.config = config
        self.model = model if model is not None else load_model(config)
        transformer: Any = self.model.transformer
        if config.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        parts = [part for part in ("connector", "queries") if getattr(config, f"train_{part}")]
        self.model.train_only(*parts)
        lora = config.lora
        self._dit = add_lora(
            transformer, rank=lora.rank, alpha=lora.alpha, targets=lora.targets, seed=lora.seed
        )
        self.model.transformer = self._dit
        self.model.place(device_of(config.device), config.offload)
        self._trains_connector = bool(parts)
        self._reference_connector = self._frozen_connector() if parts else None
        self._in_reference = False

    def _frozen_connector(self) -> Connector:
        return copy.deepcopy(self.model.connector).requires_grad_(False)

    def encode(self, scenes: Sequence[Scene]) -> Condition:
        """A row a scene, of its words and, as the settings say, its context clip's frames.

        Inside ``reference()`` the connector and queries are those from before RL.

        Raises:
            ConfigError: a clip that is needed is not there, or cannot be read.
        """
        from rlnsp.manifest import read_clip

        clips: list[np.ndarray | None] | None = None
        if self.config.context_clips:
            clips = [s.context_clip and read_clip(s.context_clip, limits=s.limits)[0] for s in scenes]
        connector = self._reference_connector if self._in_reference else None
        condition = self.model.encode_texts([s.context for s in scenes], clips=clips, connector=connector)
        if self.config.first_frame == "none":
            return condition
        geometry = self.model.geometry
        frames = first_frames(scenes, (geometry.height, geometry.width))
        return replace(condition, first=self.model.encode_frames(frames))

    def check_scenes(self, scenes: Sequence[Scene]) -> None:
        """Raise ConfigError for a scene without the context clip that ``first_frame`` needs."""
        if self.config.first_frame == "context":
            require_context_clips(scenes)

    def sigmas(self, num_steps: int) -> Tensor:
        """(num_steps + 1,) fp32, LTX's schedule for this clip's number of tokens."""
        return self.model.sigmas(num_steps)

    def noise(self, n: int, generator: Generator) -> Tensor:
        """(n, N, C) fp32, standard normal."""
        return self.model.noise(n, generator)

    def velocity(self, x: Tensor, sigma: Tensor, condition: Condition, guidance_scale: float = 1.0) -> Tensor:
        """(B, N, C) fp32, the model's noise - data; see ``UnifiedModel.velocity``."""
        return self.model.velocity(x, sigma, condition, guidance_scale)

    def decode(self, x: Tensor, generator: Generator) -> Video:
        """Clips of denoised latents (B, N, C)."""
        return self.model.decode(x, generator)

    def encode_video(self, frames: np.ndarray, generator: Generator | None = None) -> Tensor:
        """Latents (B, N, C) fp32 of uint8 (B, F, H, W, 3), of the size that the policy makes.

        Raises:
            ConfigError: clips of another size.
        """
        self.model.geometry.require(frames)
        return self.model.encode_frames(frames, generator)

    def stock_latents(
        self, x: Tensor, condition: Condition, num_steps: int, guidance_scale: float = 1.0
    ) -> Tensor:
        """(B, N, C) fp32, what diffusers' own LTXPipeline makes of the noise ``x``; the adapter as it is."""
        from diffusers.pipelines.ltx.pipeline_ltx import LTXPipeline

        from policies.stock import ltx_latents

        model = self.model
        transformer: Any = self._dit.get_base_model()  # its layers carry the adapter
        unused: Any = None
        pipeline = LTXPipeline(
            scheduler=model.scheduler,
            vae=model.vae,
            text_encoder=unused,
            tokenizer=unused,
            transformer=transformer,
        )
        return ltx_latents(
            x,
            condition,
            num_steps,
            guidance_scale,
            pipeline=pipeline,
            geometry=model.geometry,
            dtype=model.compute_dtype,
        )

    @contextmanager
    def reference(self) -> Iterator[None]:
        """While open, the policy before RL: adapter off, and ``encode`` with the first connector and queries.

        A condition keeps what it was made with: where connector or queries are trained, encode inside.
        """
        before = self._in_reference
        self._in_reference = True
        try:
            with self._dit.disable_adapter():
                yield
        finally:
            self._in_reference = before

    def named_trainable(self) -> Iterator[tuple[str, Parameter]]:
        """The adapter's parameters, and the connector's and queries where they are trained."""
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    def shards(self) -> list[nn.Module]:
        """The DiT's blocks, and the DiT."""
        from policies.lora import shards

        return shards(self._dit)

    def split_tokens(self, count: int) -> None:
        """By Ulysses; see ``policies.context_parallel``."""
        from policies.context_parallel import split_tokens

        own = self.config.first_frame != "none"
        split_tokens(self._dit, self.model.grid().num_tokens, count, timestep_a_token=own)

    def encodes_with_trained_parts(self) -> bool:
        """True if the connector or the queries are trained."""
        return self._trains_connector

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter in peft's format, and beside it ``connector/`` where it is trained."""
        from policies.lora import save_lora

        folder.mkdir(parents=True, exist_ok=True)
        save_lora(self._dit, folder)
        if self._reference_connector is not None:
            self.model.connector.save_pretrained(folder / "connector", safe_serialization=True)

    def export(self, folder: Path) -> dict[str, Any]:
        """Fill a policy folder; the adapter is in the transformer's weights, in fp32."""
        from policies.lora import merged
        from policies.unified.weights import save_policy

        model = self.model
        save_policy(
            folder,
            geometry=model.geometry,
            comprehension=model.comprehension,
            transformer=merged(self._dit),
            vae=model.vae,
            scheduler=model.scheduler,
            connector=model.connector,
        )
        own = {part: Source() for part in PARTS}  # every part is the folder's now
        return asdict(replace(self.config, **own, num_frames=None, height=None, width=None, fps=None))

    @classmethod
    def outline(cls, config: Config) -> Outline:
        """The policy without weights, for ``rlnsp plan``."""
        from policies.unified.outline import outline

        return outline(config)

    def load_adapter(self, folder: Path) -> None:
        """Read what ``save_adapter`` wrote.

        Raises:
            ConfigError: a missing or damaged file, or an adapter of another shape.
        """
        from policies.files import check_adapter
        from policies.lora import load_lora
        from policies.unified.weights import load_connector

        check_adapter(folder)
        load_lora(self._dit, folder)
        if (folder / "connector").is_dir():
            self._reference_connector = self._reference_connector or self._frozen_connector()
            trained = load_connector(Source(path=str(folder / "connector")))
            self.model.connector.load_state_dict(trained.state_dict())
