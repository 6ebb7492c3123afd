"""Faults of a file system, put into a process at any of its file operations."""

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlnsp import checkpoint

CHANGING = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}


def kill() -> None:
    """What ``kill -9`` does, to this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def full_disk() -> None:
    """What a system without room says."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FileFaults:
    """Calls ``fault`` at one of the file operations of the block ``armed``; the rest are counted.

    Operations are those that Python tells its audit hooks of, and the writing of a file's contents, which is
    taken for two: with half of it written, and with all.  A hook stays for the life of the process.
    """

    def __init__(self, at: int, fault: Callable[[], None]) -> None:
        """Put it in place.

        Args:
            at: the operation, counted from 0; one that is never reached does nothing.
            fault: called instead of it.
        """
        self.at, self.fault = at, fault
        self.count = 0
        self._armed = False
        sys.addaudithook(self._heard)

    @contextmanager
    def armed(self) -> Iterator[None]:
        """While open, operations count."""
        saved, text = checkpoint.save_file, Path.write_text
        checkpoint.save_file = self._by_halves(saved, lambda tensors, path, **_: path)
        Path.write_text = self._by_halves(text, lambda path, *_, **__: path)
        self._armed = True
        try:
            yield
        finally:
            self._armed = False
            checkpoint.save_file, Path.write_text = saved, text

    def _by_halves(self, write: Callable[..., Any], path_of: Callable[..., Path]) -> Callable[..., Any]:
        def halved(*args: Any, **settings: Any) -> Any:
            done = write(*args, **settings)
            path = path_of(*args, **settings)
            whole = path.read_bytes()
            before, self._armed = self._armed, False
            os.truncate(path, len(whole) // 2)
            self._armed = before
            self._tick()
            before, self._armed = self._armed, False
            path.write_bytes(whole)
            self._armed = before
            return done

        return halved

    def _heard(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._armed:
            return
        writes = event == "open" and isinstance(args[1], str) and bool(set(args[1]) & set("wxa+"))
        if event in CHANGING or writes:
            self._tick()

    def _tick(self) -> None:
        self.count += 1
        if self.count - 1 == self.at:
            self._armed = False  # once
            self.fault()
