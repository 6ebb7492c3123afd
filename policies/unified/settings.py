"""Where the parts of a policy come from, and the settings of its pieces; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Source:
    """One pretrained part: a folder, or a model hub's id, passed on to ``from_pretrained`` untouched."""

    path: str | None = None
    """None: the part of the policy's folder."""
    subfolder: str = ""
    revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much of a context the comprehension model reads."""

    max_length: int = 1024
    """Tokens of a row: text, frames and queries together."""
    clip_frames: int = 4
    """Evenly spaced frames read of a context clip."""
    clip_max_pixels: int = 128 * 28 * 28
    """A larger frame is scaled down to this."""

    def __post_init__(self) -> None:
        for name in ("max_length", "clip_frames", "clip_max_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"limits.{name}={getattr(self, name)}: must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class Lora:
    """The adapter that RL trains on the DiT."""

    rank: int = 16
    alpha: float = 32.0
    """The update is scaled by alpha / rank."""
    targets: list[str] = field(
        default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"],
    )
    """Ends of module names of the DiT: its attention and feed-forward."""
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
