"""``metrics.jsonl``: a line a measurement, which a run that goes on takes up where its checkpoint is."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlnsp.atomic import written_whole


class MetricsFile:
    """Grows by whole lines; each has a counter (such as ``step``) that says how far the run had come."""

    def __init__(self, path: Path, counter: str) -> None:
        self.path, self.counter = path, counter

    def forget_after(self, count: int) -> None:
        """Drop what was measured after ``count``, and a line that was cut short."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)[self.counter] <= count]
        with written_whole(self.path) as aside:
            aside.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def append(self, metrics: Mapping[str, Any]) -> None:
        """Write a line; what is not a number is null."""
        known = {name: None if value != value else value for name, value in metrics.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(known) + "\n")
