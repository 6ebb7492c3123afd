"""One tensor a row in safetensors files of so many rows each, made once and read by row.

A file appears whole or not at all; what was stopped goes on with the next.  Rows may have different shapes,
and a row without a tensor has a note that says why.  Several processes share out the files that are missing.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pretrain.marks import check_same, read_json, write_json
from rlnsp.atomic import written_whole
from rlnsp.distributed import Ranks
from rlnsp.settings import ConfigError

Made = tuple[Tensor | None, Mapping[str, Any]]
"""A row's tensor, and a note on it."""


class TensorShards:
    """A folder of them."""

    def __init__(
        self,
        folder: Path,
        num_rows: int,
        made_from: Mapping[str, Any],
        rows_a_file: int,
        ranks: Ranks | None = None,
    ) -> None:
        """Open the folder, or begin it.

        Args:
            folder: Theirs alone.
            num_rows: In all.
            made_from: All that the tensors depend on, as JSON.
            rows_a_file: At most.
            ranks: The processes that fill it together, all of which see it.

        Raises:
            ConfigError: what is there was made from something else.
        """
        self.folder, self.num_rows, self.rows_a_file = folder, num_rows, rows_a_file
        self.ranks = ranks or Ranks()
        index = {"num_rows": num_rows, "rows_a_file": rows_a_file, "made_from": dict(made_from)}
        if (folder / "index.json").is_file():
            check_same(folder, read_json(folder / "index.json"), index)
        elif self.ranks.main:
            write_json(folder / "index.json", index)
        self.ranks.exchange(None)
        self._opened = lru_cache(maxsize=64)(self._open)

    def fill(
        self, make: Callable[[int], Made], tell: Callable[[int], None] = lambda rows: None
    ) -> list[tuple[int, Mapping[str, Any]]]:
        """Make the files that are not there; ``tell`` is told how many rows are done, as far as is known.

        Returns:
            Of the rows that any process made, those without a tensor, and their notes.

        Raises:
            RankEnded: another process has ended.
        """
        firsts = range(0, self.num_rows, self.rows_a_file)
        missing = self.ranks.of_main([first for first in firsts if not self._path(first).is_file()])
        done = self.num_rows - sum(len(self._rows(first)) for first in missing)
        tell(done)
        for place in self.ranks.share(len(missing)):
            rows = self._rows(missing[place])
            tensors, notes = {}, {}
            for row in rows:
                tensor, note = make(row)
                if tensor is not None:
                    tensors[str(row)] = tensor.detach().cpu().contiguous()
                notes[str(row)] = note
            with written_whole(self._path(rows.start)) as aside:
                save_file(tensors, aside, metadata={"notes": json.dumps(notes)})
            done += len(rows)
            tell(done)
        self.ranks.exchange(None)
        return [found for first in missing for found in self._without_tensor(first)]

    def read(self, row: int) -> Made:
        """A row's tensor, or None, and the note.

        Raises:
            ConfigError: its file is not there, or damaged.
        """
        file, notes = self._opened(row // self.rows_a_file * self.rows_a_file)
        note = notes[str(row)]
        return (file.get_tensor(str(row)) if str(row) in file.keys() else None), note  # noqa: SIM118

    def _open(self, first: int) -> tuple[Any, dict[str, Any]]:
        path = self._path(first)
        try:
            file: Any = safe_open(path, framework="pt").__enter__()  # stays open; memory-mapped
            return file, json.loads(file.metadata()["notes"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read ({error}); remove it, and precompute again") from error

    def _without_tensor(self, first: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
        file, notes = self._opened(first)
        there = set(file.keys())
        yield from ((row, notes[str(row)]) for row in self._rows(first) if str(row) not in there)

    def _rows(self, first: int) -> range:
        return range(first, min(first + self.rows_a_file, self.num_rows))

    def _path(self, first: int) -> Path:
        return self.folder / f"{first:08d}.safetensors"
