"""``metrics.jsonl``: a line a measurement, which a run that goes on takes up where its checkpoint is."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlnsp.atomic import writing, written_whole


class MetricsFile:
    """Grows by whole lines; each has a counter (such as ``step``) that says how far the run had come."""

    def __init__(self, path: Path, counter: str) -> None:
        self.path, self.counter = path, counter

    def forget_after(self, count: int, also: Callable[[Mapping[str, Any]], bool] = lambda _: False) -> None:
        """Drop what was measured after ``count``, what ``also`` is true of, and a line that was cut short."""
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        kept = []
        for line in text.splitlines(keepends=True):
            if line.endswith("}\n"):
                metrics = json.loads(line)
                if metrics[self.counter] <= count and not also(metrics):
                    kept.append(line)
        with written_whole(self.path) as aside:
            aside.write_text("".join(kept), encoding="utf-8")

    def append(self, metrics: Mapping[str, Any]) -> None:
        """Write a line; what is not a number is null."""
        known = {name: None if value != value else value for name, value in metrics.items()}
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            whole = file.tell()
            try:
                file.write(json.dumps(known) + "\n")
                file.flush()
            except OSError:
                os.truncate(self.path, whole)
                raise
