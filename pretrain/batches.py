"""Batches of clips from a source of any size: shuffled anew each epoch, each of one shape, resumed exactly.

The order is that of ``pretrain.loop.batch_indices``.  A clip that cannot be used is passed over, and listed;
the next takes its place.  Clips wait until there are enough of their shape for a batch.
"""

import json
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pretrain.loop import epoch_order
from rlnsp.atomic import written_whole
from rlnsp.dataset.video import UnusableVideo
from rlnsp.settings import ConfigError
from rlnsp.types import Scene

Shape = tuple[int, int]
"""(H, W) pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One clip to train on."""

    scene: Scene
    shape: Shape
    latents: Tensor
    """(N, C) fp32."""
    hidden: Tensor | None = None
    """(Q, W), what the comprehension model says at the queries, where that is kept."""


class Source(Protocol):
    """Examples by row."""

    def __len__(self) -> int: ...

    def scene(self, row: int) -> Scene:
        """Without its clip."""
        ...

    def load(self, row: int) -> Any:
        """What takes time and needs no model, in any thread.

        Raises:
            UnusableVideo: the clip cannot be used.
        """
        ...

    def example(self, row: int, loaded: Any) -> Example:
        """Of what ``load`` gave."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Examples of one shape."""

    scenes: list[Scene]
    shape: Shape
    latents: Tensor
    """(B, N, C) fp32."""
    hidden: Tensor | None
    """(B, Q, W) where it is kept."""

    def split(self, size: int) -> "list[Batch]":
        """Parts of at most so many."""
        return [self._part(slice(first, first + size)) for first in range(0, len(self.scenes), size)]

    def _part(self, rows: slice) -> "Batch":
        hidden = None if self.hidden is None else self.hidden[rows]
        return Batch(scenes=self.scenes[rows], shape=self.shape, latents=self.latents[rows], hidden=hidden)


def batch_of(examples: list[Example]) -> Batch:
    """All of one shape."""
    hidden = [one.hidden for one in examples if one.hidden is not None]
    return Batch(
        scenes=[one.scene for one in examples],
        shape=examples[0].shape,
        latents=torch.stack([one.latents for one in examples]),
        hidden=torch.stack(hidden) if hidden else None,
    )


class Skipped:
    """Clips that cannot be used: a line each in a file, with the reason."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        whole, _, cut = text.rpartition("\n")
        if cut:  # a process was killed while it wrote: its clip is met, and listed, again
            with written_whole(path) as aside:
                aside.write_text(whole + "\n" if whole else "", encoding="utf-8")
        self.ids = {json.loads(line)["id"] for line in whole.splitlines()}

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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


class ClipBatches:
    """``pretrain.loop.Batches`` of a source; loads ahead in threads, and hands over in order."""

    def __init__(
        self, source: Source, batch_size: int, seed: int, skipped: Skipped, workers: int = 0
    ) -> None:
        """Load nothing yet.

        Args:
            source: of at least one row.
            batch_size: B.
            seed: of the order.
            skipped: gets what cannot be used.
            workers: threads that load ahead; 0: none, each is loaded when it is its turn.
        """
        self.source, self.batch_size, self.seed, self.skipped = source, batch_size, seed, skipped
        self.position = 0
        """Rows taken so far, over all epochs; skipped ones count."""
        self._waiting: dict[Shape, list[tuple[int, Example]]] = {}
        self._order: tuple[int, Tensor] = -1, torch.empty(0)
        self._threads = ThreadPoolExecutor(workers, "load") if workers else None
        self._ahead: deque[tuple[int, Future[Any]]] = deque()
        self._depth = 2 * workers

    def next(self, step: int) -> Batch:
        """The first batch that is full.

        Raises:
            ConfigError: no clip of a whole epoch can be used.
        """
        missed = 0
        while True:
            row = self._row(self.position)
            found = self._read(row)
            self.position += 1
            if found is None:
                missed += 1
                if missed >= len(self.source):
                    raise ConfigError(f"no clip can be used; {self.skipped.path} has the reasons")
                continue
            missed = 0
            waiting = self._waiting.setdefault(found.shape, [])
            waiting.append((row, found))
            if len(waiting) == self.batch_size:
                del self._waiting[found.shape]
                return batch_of([example for _, example in waiting])

    def state(self) -> Mapping[str, Any]:
        """The position, and which rows wait for others of their shape."""
        waiting = [row for rows in self._waiting.values() for row, _ in rows]
        return {"rows": len(self.source), "position": self.position, "waiting": waiting}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Read again what waited.

        Raises:
            ConfigError: the data has another number of rows.
        """
        rows = len(self.source)
        if state.get("rows", rows) != rows:
            raise ConfigError(
                f"the checkpoint is of data with {state['rows']} clips, which now has {rows}; put back what "
                "was there, or remove the checkpoint"
            )
        self.position = state.get("position", 0)
        for row in state.get("waiting", []):
            example = self.source.example(row, self.source.load(row))
            self._waiting.setdefault(example.shape, []).append((row, example))

    def close(self) -> None:
        """Stop loading ahead."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _read(self, row: int) -> Example | None:
        try:
            return self.source.example(row, self._loaded(row))
        except UnusableVideo as error:
            self.skipped.add(self.source.scene(row), error)
            return None

    def _loaded(self, row: int) -> Any:
        if self._threads is None:
            return self.source.load(row)
        while len(self._ahead) <= self._depth:
            soon = self._row(self.position + len(self._ahead))
            self._ahead.append((soon, self._threads.submit(self.source.load, soon)))
        first, future = self._ahead.popleft()
        assert first == row
        return future.result()

    def _row(self, position: int) -> int:
        epoch, place = divmod(position, len(self.source))
        if self._order[0] != epoch:
            self._order = epoch, epoch_order(len(self.source), self.seed, epoch)
        return int(self._order[1][place])


def first_examples(source: Source, n: int, skipped: Skipped) -> list[Batch]:
    """The first ``n`` usable rows, in order, as one batch a shape."""
    shapes: dict[Shape, list[Example]] = {}
    found = 0
    for row in range(len(source)):
        try:
            example = source.example(row, source.load(row))
        except UnusableVideo as error:
            skipped.add(source.scene(row), error)
            continue
        shapes.setdefault(example.shape, []).append(example)
        found += 1
        if found == n:
            break
    if not found:
        raise ConfigError(f"no clip can be used; {skipped.path} has the reasons")
    return [batch_of(examples) for examples in shapes.values()]
