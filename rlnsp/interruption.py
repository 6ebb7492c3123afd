"""Ctrl-C and a scheduler's SIGTERM, held back while something must not be cut in two."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop; ``exit_code`` is 130 for SIGINT and 143 for SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Interruption:
    """While entered, both signals raise ``Interrupted``: at once, or when the last ``held`` block is left."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._holding = 0
        self._ignoring = False
        self._previous: dict[int, Any] = {}

    @property
    def received(self) -> int | None:
        """The signal that is held back."""
        return self._received

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block that is finished before the run stops."""
        self._holding += 1
        try:
            yield
        finally:
            self._holding -= 1
        if self._received is not None and not self._holding and not self._ignoring:
            raise Interrupted(self._received)

    @contextmanager
    def ignored(self) -> Iterator[None]:
        """A block that nothing cuts short: what is done about a signal that was received."""
        before, self._ignoring = self._ignoring, True
        try:
            yield
        finally:
            self._ignoring = before

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._ignoring:
            return
        if self._received is not None and self._holding:
            return  # asked twice: the block is being finished already
        self._received = number
        if not self._holding:
            raise Interrupted(number)
