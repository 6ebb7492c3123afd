"""Data sets of Hugging Face ``datasets``: saved to disk, parquet, JSON or a hub's, read where they lie."""

import json
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from rlnsp.dataset.hub import fetch, is_fetched
from rlnsp.settings import ConfigError

SUFFIXES = {".parquet": "parquet", ".json": "json"}
MARKS = ("dataset_dict.json", "state.json")
"""Of folders that ``save_to_disk`` wrote."""
HELDOUT = {
    *("validation", "valid", "val", "dev"),
    *("test", "testing", "eval", "evaluation", "heldout"),
}
"""What ``datasets`` knows splits by in the names of files, and a word of our own."""
VIDEOS = ("video", "context_clip")
PICTURE = "image"
"""A column of pictures."""


class Part(NamedTuple):
    """One table."""

    split: str
    path: Path
    name: str
    """For messages."""
    first: int
    """Rows before it that ``name`` counts too."""
    table: Any
    """``datasets.Dataset`` of arrow: nothing in it is decoded, nor copied before it is asked for."""


def is_saved(folder: Path) -> bool:
    """``save_to_disk`` wrote the folder."""
    return any((folder / mark).is_file() for mark in MARKS)


def parquet_files(folder: Path) -> list[Path]:
    """Those of a folder, or in its folder data, where repositories on a hub have them."""
    return sorted(folder.glob("*.parquet")) or sorted((folder / "data").glob("*.parquet"))


def open_tables(place: Path | str) -> list[Part]:
    """The parts of a data set, memory-mapped.

    Raises:
        ConfigError: it cannot be read.
    """
    if isinstance(place, str):
        return [part for split, files in fetch(place) for part in _on_hub(place, split, files)]
    if (place / "dataset_dict.json").is_file():
        names = json.loads((place / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        return [_part(_split(name), place / name) for name in names]
    files = parquet_files(place) if place.is_dir() and not is_saved(place) else [place]
    return [_part(_split_of_file(file.name), file) for file in files]


def _part(split: str, path: Path) -> Part:
    return Part(split=split, path=path, name=str(path), first=0, table=open_table(path))


def _on_hub(place: str, split: str, files: list[Path]) -> list[Part]:
    parts: list[Part] = []
    first = 0
    for file in files:
        table = open_table(file)
        parts.append(Part(_split(split), file, f"{place}, split {split}", first, table))
        first += len(table)
    return parts


@lru_cache(maxsize=256)
def open_table(path: Path) -> Any:
    """One ``datasets.Dataset``, as of ``Part``.

    Raises:
        ConfigError: it cannot be read.
    """
    import datasets  # slow to import
    from datasets.exceptions import DatasetsError

    try:
        table: Any
        if path.is_dir():
            table = datasets.load_from_disk(str(path))
        elif path.suffix == ".arrow":
            table = datasets.Dataset.from_file(str(path))
        else:
            # A bar for reading a local file says nothing that matters.
            datasets.disable_progress_bars()
            kind = SUFFIXES[path.suffix]
            table = datasets.load_dataset(kind, data_files=str(path), split="train")
    except (OSError, ValueError, KeyError, DatasetsError) as error:
        raise ConfigError(
            f"{path}: not a data set that `datasets` can read ({error}); save it anew"
        ) from error
    # Bytes and paths as they are: whether they may be decoded is for the reader to say.
    return table.with_format("arrow")


def values_of(part: Part, row: int, *, pictures: bool) -> dict[str, Any]:
    """A row as a manifest's line; a video that the table holds itself is named TABLE/@COLUMN/ROW.

    Args:
        part: the table.
        row: its number in it.
        pictures: the picture of a row without a video is its video.

    Raises:
        ConfigError: a hub's table names a file, which was not fetched with it.
    """
    line = part.table[row]
    values: dict[str, Any] = {}
    for column in line.column_names:
        cell = line.column(column)[0]
        media = column in VIDEOS or column == PICTURE
        value = _named(part, column, row, cell) if media else cell.as_py()
        if value is not None:
            values[column] = value
    picture = values.pop(PICTURE, None)
    if pictures and picture is not None:
        values.setdefault("video", picture)
    return values


def is_picture(path: Path) -> bool:
    """``values_of`` named a picture so."""
    return path.parent.name == f"@{PICTURE}"


def embedded(path: Path) -> tuple[int, Callable[[], bytes]] | None:
    """The size of what ``values_of`` named, and what reads it; None if it names none."""
    column, row, file = path.parent.name, path.name, path.parent.parent
    if not column.startswith("@") or not row.isdigit() or not file.exists():
        return None
    table = open_table(file)
    if column[1:] not in table.column_names or int(row) >= len(table):
        return None
    held = _held(table[int(row)].column(column[1:])[0], file)
    if isinstance(held, Path):
        return held.stat().st_size, held.read_bytes
    return None if held is None else (held.size, held.to_pybytes)


def _named(part: Part, column: str, row: int, cell: Any) -> Any:
    if _held(cell, part.path) is not None:
        return f"{part.path.name}/@{column}/{row}"
    value = cell.as_py()
    name = value.get("path") if isinstance(value, dict) else value
    if name is not None and part.path.suffix == ".arrow":
        raise ConfigError(
            f"{part.name}, row {part.first + row}: {column} {name!r} is a file that is not in the table; "
            "download the repository (`hf download --repo-type dataset`), and give that folder"
        )
    return name


def _held(cell: Any, table: Path) -> Any:
    """A cell's own bytes, as an arrow buffer; or the file fetched for it; None where it has neither."""
    import pyarrow as pa

    if isinstance(cell, pa.StructScalar):
        fields = dict(cell.items()) if cell.is_valid else {}
        data, name = fields.get("bytes"), fields.get("path")
    else:
        data, name = cell, None
    # Texts are arrow's binary scalars too.
    is_bytes = isinstance(data, pa.BinaryScalar) and not isinstance(data, pa.StringScalar)
    if data is not None and is_bytes and data.is_valid and data.as_buffer().size:
        return data.as_buffer()
    if name is not None and name.is_valid and table.suffix == ".arrow":
        file = Path(name.as_py())
        return file if file.is_file() and is_fetched(file, table) else None
    return None


def _split_of_file(name: str) -> str:
    """By a word of it, such as train-00000-of-00002.parquet."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((_split(word) for word in words if word in HELDOUT), "train")


def _split(name: str) -> str:
    return "heldout" if name in HELDOUT else "train"
