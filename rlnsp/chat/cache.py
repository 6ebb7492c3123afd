"""Answers on disk, so that nothing is asked twice."""

import sqlite3
import threading
from pathlib import Path

from tenacity import retry, retry_if_exception_message, stop_after_delay, wait_random

from rlnsp.chat.question import Answer
from rlnsp.settings import ConfigError

WAIT_S = 60.0
"""For another process that is writing."""


class AnswerCache:
    """Answers by the keys of their questions, in one SQLite file on a local disk.

    Each is there as soon as it was put, whatever becomes of the process.  Several threads and processes may
    share the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, WAIT_S, isolation_level=None, check_same_thread=False)
            self._begin()
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(
                f"{path}: cannot be used as an answer cache ({error}); name another file, or remove this one"
            ) from error

    # Where two begin a file at once, SQLite does not wait, lest each waits for the other, and says so.
    @retry(
        retry=retry_if_exception_message(match=".*locked"),
        stop=stop_after_delay(WAIT_S),
        wait=wait_random(0.01, 0.1),
        reraise=True,
    )
    def _begin(self) -> None:
        # A write-ahead log needs no flush to disk for each answer, and readers do not wait for writers.
        self._file.execute("PRAGMA journal_mode=WAL")
        self._file.execute("PRAGMA synchronous=NORMAL")
        self._file.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")

    def get(self, key: str) -> Answer | None:
        """None where there is none."""
        with self._lock:
            row = self._file.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return row and Answer.from_json(row[0])

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer; the first one stays."""
        with self._lock:
            self._file.execute("INSERT OR IGNORE INTO answers VALUES (?, ?)", (key, answer.to_json()))

    def __len__(self) -> int:
        with self._lock:
            return self._file.execute("SELECT COUNT(*) FROM answers").fetchone()[0]
