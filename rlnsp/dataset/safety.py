"""What a data set's files may do and cost: paths stay under its root, sizes under limits."""

from pathlib import Path, PurePosixPath

from rlnsp.limits import Limits

__all__ = ["Limits", "UnsafePath", "check_name", "inside"]


class UnsafePath(ValueError):
    """A name that leads out of the data's root; the message says how."""


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
