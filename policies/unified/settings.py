"""How much the comprehension model reads; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass


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
