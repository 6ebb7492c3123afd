"""What one video file may cost."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that one video file of a data set may be."""

    max_file_mb: float = 4096.0
    """10^6 bytes, on the disk or in a shard."""
    max_pixels: int = 4096 * 2304
    """Of a frame."""
    max_seconds: float = 3600.0
    max_clip_mb: float = 8192.0
    """10^6 bytes of a clip's frames in memory, decoded."""

    def __post_init__(self) -> None:
        for name in ("max_file_mb", "max_pixels", "max_seconds", "max_clip_mb"):
            if getattr(self, name) <= 0:
                raise ValueError(f"limits.{name} must be positive; got {getattr(self, name)}")
