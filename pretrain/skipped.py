"""The list of clips that a stage cannot use, each with the reason."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from rlnsp.atomic import written_whole
from rlnsp.dataset.video import UnusableVideo
from rlnsp.types import Scene


class Skipped:
    """Clips that cannot be used: a line each in a file, with the reason."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        """Go on with the list at ``path``; of several processes one ``writes``."""
        self.path, self._writes = path, writes
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        whole, _, cut = text.rpartition("\n")
        if cut and writes:  # a process was killed while it wrote: its clip is met, and listed, again
            with written_whole(path) as aside:
                aside.write_text(whole + "\n" if whole else "", encoding="utf-8")
        # Only at \n: an id may hold other line separators, such as U+2028.
        self.ids = {json.loads(line)["id"] for line in whole.split("\n") if line}

    def add(self, scene: Scene, error: UnusableVideo) -> None:
        """List it, unless it is."""
        if scene.id not in self.ids:
            self._write({"id": scene.id, "video": str(scene.video), "kind": error.kind, "why": str(error)})

    def add_files(self, broken: Iterable[str]) -> None:
        """List files that break off, as ``rlnsp.dataset.rows.Rows.broken`` names them: 'FILE: why'."""
        for said in broken:
            file, _, why = said.partition(": ")
            if file not in self.ids:
                self._write({"id": file, "video": file, "kind": "broken", "why": why})

    def _write(self, line: Mapping[str, str]) -> None:
        self.ids.add(line["id"])
        if not self._writes:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
