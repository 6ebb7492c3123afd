"""Files that appear whole or not at all, and one error for what the system does not let a run write."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


class WriteFailed(OSError):
    """Something could not be written.  One line: where, why, what to do."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system refuses in the block, a full disk above all, into ``WriteFailed`` on ``path``."""
    try:
        yield
    except WriteFailed:
        raise
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT} or "os error 28" in str(error)
        remedy = "free some space" if full else "let it be written to"
        reason = getattr(error, "strerror", None) or error
        raise WriteFailed(f"{path}: cannot be written ({reason}); {remedy}") from error


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write to: it takes that name when all went well, and goes when not.

    Raises:
        WriteFailed: the system refused it.
    """
    aside = path.with_name(path.name + ".partial")
    with writing(path):
        try:
            yield aside
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
