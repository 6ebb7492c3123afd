"""What policies have in common that a user sets; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal


def require_positive(settings: Any, names: Iterable[str]) -> None:
    """Raise ValueError for the first of these settings that is neither None nor above 0."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name}={value}: must be positive.")


FirstFrame = Literal["none", "context"]
"""Of a clip.  ``none``: it is made as the others are.  ``context``: the last frame of the scene's
``context_clip``, which it needs, is given, and the clip goes on from it."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One pretrained part: a folder, or a model hub's id, passed on to ``from_pretrained`` untouched."""

    path: str | None = None
    """None: the part of the policy's folder."""
    subfolder: str = ""
    revision: str | None = None
    local_files_only: bool = False
    """Of a hub's id take what was downloaded before, and ask nobody."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """The adapter that RL trains on the DiT."""

    rank: int = 16
    alpha: float = 32.0
    """The update is scaled by alpha / rank."""
    targets: list[str] = field(
        default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"],
    )
    """Ends of module names of the DiT: its attention and feed-forward, as LTX-Video and Wan have them."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora.rank={self.rank}: must be at least 1.")
        if self.alpha <= 0:
            raise ValueError(f"lora.alpha={self.alpha}: must be positive.")
        if not self.targets:
            raise ValueError(
                "lora.targets is empty: name at least one layer of the transformer, such as to_q."
            )


@dataclass(frozen=True, kw_only=True)
class PipelineSettings:
    """Which pipeline of diffusers, what clips it makes, and what of it is trained."""

    folder: str
    """The pipeline: a folder with a ``model_index.json``, or a model hub's id."""
    revision: str | None = None
    """Of a hub's id."""
    local_files_only: bool = False
    """As ``Source.local_files_only``."""
    tokenizer: Source = field(default_factory=Source)
    """In place of the folder's.  So are the next four."""
    text_encoder: Source = field(default_factory=Source)
    transformer: Source = field(default_factory=Source)
    vae: Source = field(default_factory=Source)
    scheduler: Source = field(default_factory=Source)
    num_frames: int
    height: int
    width: int
    fps: float
    template: str = "{}"
    """What the text encoder reads of a scene, its context in the place of {}."""
    negative_prompt: str = ""
    """What guidance leads away from, word for word."""
    max_length: int
    """Tokens that a text is padded to; a longer one is refused."""
    lora: Lora = field(default_factory=Lora)
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Of the frozen weights and of each forward; what is trained stays fp32."""
    device: str = "auto"
    """``auto``: the current CUDA device if there is one, else the CPU."""
    gradient_checkpointing: bool = False
    decode_batch_size: int = 16
    """Clips decoded at a time."""

    def __post_init__(self) -> None:
        require_positive(self, ("num_frames", "height", "width", "fps", "max_length", "decode_batch_size"))
        if self.template.count("{}") != 1:
            raise ValueError(f"template={self.template!r}: must hold {{}} once, where the context goes.")
