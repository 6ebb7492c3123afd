"""What a data set's files may do and cost: paths stay under its root, sizes under limits."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rlnsp.settings import require


class UnsafePath(ValueError):
    """A name that leads out of the data's root; the message says how."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that one video file may be."""

    max_file_mb: float = 4096.0
    """10^6 bytes, on the disk or in a shard."""
    max_pixels: int = 4096 * 2304
    """Of a frame."""
    max_seconds: float = 3600.0
    max_clip_mb: float = 8192.0
    """10^6 bytes of a clip's frames in memory, decoded."""

    def __post_init__(self) -> None:
        for name in ("max_file_mb", "max_pixels", "max_seconds", "max_clip_mb"):
            require(getattr(self, name) > 0, f"limits.{name} must be positive; got {getattr(self, name)}")


def inside(name: str, root: Path) -> Path:
    """The file ``name`` under ``root``, links resolved.  It need not be there.

    Raises:
        UnsafePath: it is absolute, has a '..' in it, or is a link that leads out of ``root``.
    """
    check_name(name)
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise UnsafePath("is a link to somewhere else")
    return path


def check_name(name: str) -> None:
    """Raise UnsafePath unless ``name`` is a plain relative path."""
    path = PurePosixPath(name)
    if path.is_absolute():
        raise UnsafePath("is an absolute path")
    if ".." in path.parts:
        raise UnsafePath("has '..' in it")
    if not path.parts or "\0" in name:
        raise UnsafePath("names no file")
