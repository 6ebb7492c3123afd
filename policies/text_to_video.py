"""A text-to-video generator of diffusers as a policy: what does not depend on which.  Cheap to import."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from policies.settings import PipelineSettings, Source

if TYPE_CHECKING:
    import numpy as np
    from torch import Generator, Tensor, nn
    from torch.nn import Parameter

    from policies.pipeline import PipelineModel
    from rlnsp.types import Condition, Scene, Video

Settings = TypeVar("Settings", bound=PipelineSettings)


class TextToVideo(ABC, Generic[Settings]):
    """A pipeline of diffusers whose transformer carries the adapter that RL trains."""

    def __init__(self, config: Settings) -> None:
        """Load what ``config`` names and add a zero adapter to its transformer.

        Raises:
            ConfigError: settings that the weights cannot meet; a missing or damaged file.
        """
        from policies.lora import add_lora
        from rlnsp.pretrained import device_of

        self.config = config
        self.model = self.load(config)
        transformer: Any = self.model.transformer
        if config.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        lora = config.lora
        self._dit = add_lora(
            transformer, rank=lora.rank, alpha=lora.alpha, targets=lora.targets, seed=lora.seed
        )
        self.model.transformer = self._dit
        self.model.to(device_of(config.device))

    @abstractmethod
    def load(self, config: Settings) -> PipelineModel:
        """The parts that ``config`` names, on the CPU, nothing in them trainable."""

    def encode(self, scenes: Sequence[Scene]) -> Condition:
        """A row a scene: its context in the template, as the text encoder reads it."""
        return self.model.encode_texts(
            [self.config.template.replace("{}", scene.context) for scene in scenes]
        )

    def sigmas(self, num_steps: int) -> Tensor:
        """(num_steps + 1,) fp32, the model's own schedule."""
        return self.model.sigmas(num_steps)

    def noise(self, n: int, generator: Generator) -> Tensor:
        """(n, N, C) fp32, standard normal."""
        return self.model.noise(n, generator)

    def velocity(self, x: Tensor, sigma: Tensor, condition: Condition, guidance_scale: float = 1.0) -> Tensor:
        """(B, N, C) fp32, the model's noise - data."""
        return self.model.velocity(x, sigma, condition, guidance_scale)

    def decode(self, x: Tensor, generator: Generator) -> Video:
        """Clips of denoised latents (B, N, C)."""
        from rlnsp.types import Video

        return Video(frames=self.model.decode(x, generator), fps=self.config.fps)

    def encode_video(self, frames: np.ndarray, generator: Generator | None = None) -> Tensor:
        """Latents (B, N, C) fp32 of uint8 (B, F, H, W, 3), of the size that the policy makes.

        Raises:
            ConfigError: clips of another size.
        """
        self.model.geometry.require(frames)
        return self.model.encode(frames, generator)

    def stock_latents(
        self, x: Tensor, condition: Condition, num_steps: int, guidance_scale: float = 1.0
    ) -> Tensor:
        """(B, N, C) fp32, what diffusers' own pipeline makes of the noise ``x``; the adapter as it is."""
        transformer = self._dit.get_base_model()  # its layers carry the adapter
        return self.model.stock_sampler(transformer)(x, condition, num_steps, guidance_scale)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """While open, the policy before RL: adapter off."""
        with self._dit.disable_adapter():
            yield

    def named_trainable(self) -> Iterator[tuple[str, Parameter]]:
        """The adapter's parameters."""
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    def shards(self) -> list[nn.Module]:
        """The DiT's blocks, and the DiT."""
        from policies.lora import shards

        return shards(self._dit)

    def split_tokens(self, count: int) -> None:
        """By Ulysses; see ``policies.context_parallel``."""
        from policies.context_parallel import split_tokens

        split_tokens(self._dit, self.model.grid.num_tokens, count)

    def encodes_with_trained_parts(self) -> bool:
        """False: the text encoder is frozen."""
        return False

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter in peft's format."""
        from policies.lora import save_lora

        folder.mkdir(parents=True, exist_ok=True)
        save_lora(self._dit, folder)

    def export(self, folder: Path) -> dict[str, Any]:
        """Fill a folder that the stock pipeline opens; the adapter is in the weights, in fp32."""
        from policies.lora import merged

        self.model.stock_pipeline(merged(self._dit)).save_pretrained(folder, safe_serialization=True)
        parts = ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")
        own: dict[str, Any] = {part: Source() for part in parts}  # every part is the folder's now
        return asdict(replace(self.config, **own, revision=None))

    def load_adapter(self, folder: Path) -> None:
        """Read what ``save_adapter`` wrote.

        Raises:
            ConfigError: a missing or damaged file, or an adapter of another shape.
        """
        from policies.files import check_adapter
        from policies.lora import load_lora

        check_adapter(folder)
        load_lora(self._dit, folder)
