"""Batches of clips from a source of any size: shuffled anew each epoch, each of one shape, resumed exactly.

The order is that of ``pretrain.loop.batch_indices``.  A clip that cannot be used is passed over, and listed;
the next takes its place.  Clips wait until there are enough of their shape for a batch.

Several processes read a row each in turn, and tell each other its shape: which rows make up a batch does not
depend on how many they are.  Each has the examples that it read itself.
"""

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from pretrain.examples import Batch, Example, Shape, Source, Turn, batch_of, read_in_turn
from pretrain.loop import epoch_order
from pretrain.skipped import Skipped
from rlnsp.dataset.video import UnusableVideo
from rlnsp.distributed import Ranks
from rlnsp.settings import ConfigError


class ClipBatches:
    """``pretrain.loop.Batches`` of a source; loads ahead in threads, and hands over in order."""

    def __init__(
        self,
        source: Source,
        batch_size: int,
        seed: int,
        skipped: Skipped,
        workers: int = 0,
        ranks: Ranks | None = None,
    ) -> None:
        """Load nothing yet.

        Args:
            source: of at least one row.
            batch_size: B, of all processes.
            seed: of the order.
            skipped: gets what cannot be used.
            workers: threads that load ahead; 0: none, each is loaded when it is its turn.
            ranks: the processes that share the batches.
        """
        self.source, self.batch_size, self.seed, self.skipped = source, batch_size, seed, skipped
        self.ranks = ranks or Ranks()
        self.position = 0
        """Rows taken so far, over all epochs; skipped ones count."""
        self._read_already: deque[Turn] = deque()
        """By one of the processes, and not taken yet."""
        self._waiting: dict[Shape, list[Turn]] = {}
        self._order: tuple[int, Tensor] = -1, torch.empty(0)
        self._threads = ThreadPoolExecutor(workers, "load") if workers else None
        self._ahead: deque[tuple[int, Future[Any]]] = deque()
        self._depth = 2 * workers

    def next(self, step: int) -> Batch:
        """The first batch that is full.

        Raises:
            ConfigError: no clip of a whole epoch can be used.
            RankEnded: another process has ended.
        """
        missed = 0
        while True:
            if not self._read_already:
                rows = [self._row(self.position + place) for place in range(self.ranks.count)]
                self._read_already.extend(read_in_turn(rows, self._read, self.ranks, self._skip))
            turn = self._read_already.popleft()
            self.position += 1
            if turn.shape is None:
                missed += 1
                if missed >= len(self.source):
                    raise ConfigError(f"no clip can be used; {self.skipped.path} has the reasons")
                continue
            missed = 0
            waiting = self._waiting.setdefault(turn.shape, [])
            waiting.append(turn)
            if len(waiting) == self.batch_size:
                del self._waiting[turn.shape]
                return batch_of(turn.shape, [one.example for one in waiting])

    def state(self) -> Mapping[str, Any]:
        """The position, and which rows wait for others of their shape."""
        waiting = [turn.row for turns in self._waiting.values() for turn in turns]
        return {"rows": len(self.source), "position": self.position, "waiting": waiting}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Read again what waited, shared out anew.

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
        waiting, count = state.get("waiting", []), self.ranks.count
        for first in range(0, len(waiting), count):
            for turn in read_in_turn(waiting[first : first + count], self._again, self.ranks, self._skip):
                if turn.shape is not None:
                    self._waiting.setdefault(turn.shape, []).append(turn)

    def close(self) -> None:
        """Stop loading ahead."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _again(self, row: int) -> Example:
        return self.source.example(row, self.source.load(row))

    def _skip(self, row: int, error: UnusableVideo) -> None:
        self.skipped.add(self.source.scene(row), error)

    def _read(self, row: int) -> Example:
        return self.source.example(row, self._loaded(row))

    def _loaded(self, row: int) -> Any:
        if self._threads is None:
            return self.source.load(row)
        while len(self._ahead) <= self._depth:
            place = self.position + self.ranks.rank + self.ranks.count * len(self._ahead)
            soon = self._row(place)
            self._ahead.append((soon, self._threads.submit(self.source.load, soon)))
        first, future = self._ahead.popleft()
        assert first == row
        return future.result()

    def _row(self, position: int) -> int:
        epoch, place = divmod(position, len(self.source))
        if self._order[0] != epoch:
            self._order = epoch, epoch_order(len(self.source), self.seed, epoch)
        return int(self._order[1][place])


def first_examples(
    source: Source, n: int, skipped: Skipped, ranks: Ranks | None = None, which: str = ""
) -> list[Batch]:
    """The first ``n`` usable rows, in order, as one batch a shape, shared by the processes.

    Raises:
        ConfigError: there is none; it says ``which`` clips.
        RankEnded: another process has ended.
    """
    ranks = ranks or Ranks()
    shapes: dict[Shape, list[Example | None]] = {}
    found = 0
    for first in range(0, len(source), ranks.count):
        turns = read_in_turn(
            range(first, min(first + ranks.count, len(source))),
            lambda row: source.example(row, source.load(row)),
            ranks,
            lambda row, error: skipped.add(source.scene(row), error),
        )
        for turn in turns:
            if turn.shape is not None and found < n:
                shapes.setdefault(turn.shape, []).append(turn.example)
                found += 1
        if found == n:
            break
    if not found:
        raise ConfigError(f"no {which}clip can be used; {skipped.path} has the reasons")
    return [batch_of(shape, examples) for shape, examples in shapes.items()]
