"""Data sets of Hugging Face ``datasets``: saved to disk, parquet or JSON, read where they lie."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlnsp.settings import ConfigError

SUFFIXES = {".parquet": "parquet", ".json": "json"}
MARKS = ("dataset_dict.json", "state.json")
"""Of folders that ``save_to_disk`` wrote."""
HELDOUT = ("validation", "test", "heldout")
"""Their names for what no stage trains on."""


def is_saved(folder: Path) -> bool:
    """``save_to_disk`` wrote the folder."""
    return any((folder / mark).is_file() for mark in MARKS)


def open_tables(path: Path) -> list[tuple[str, Path, Any]]:
    """(split, where, ``datasets.Dataset``) of each part, memory-mapped; videos are not decoded.

    Raises:
        ConfigError: it cannot be read.
    """
    if (path / "dataset_dict.json").is_file():
        names = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        return [(_split(name), path / name, open_table(path / name)) for name in names]
    files = sorted(path.glob("*.parquet")) if path.is_dir() and not is_saved(path) else [path]
    # A file's name says its split, as on the hub: train-00000-of-00002.parquet.
    return [(_split(file.name.split("-")[0].split(".")[0]), file, open_table(file)) for file in files]


@lru_cache(maxsize=256)
def open_table(path: Path) -> Any:
    """One ``datasets.Dataset``.

    Raises:
        ConfigError: it cannot be read.
    """
    import datasets  # slow to import
    from datasets.exceptions import DatasetsError

    # A bar for reading a local file says nothing that matters.
    datasets.disable_progress_bars()
    try:
        table: Any
        if path.is_dir():
            table = datasets.load_from_disk(str(path))
        else:
            kind = SUFFIXES[path.suffix]
            table = datasets.load_dataset(kind, data_files=str(path), split="train")
    except (OSError, ValueError, KeyError, DatasetsError) as error:
        raise ConfigError(
            f"{path}: not a data set that `datasets` can read ({error}); save it anew"
        ) from error
    # Bytes and paths as they are: whether they may be decoded is for the reader to say.
    for name, feature in table.features.items():
        if isinstance(feature, datasets.Video):
            table = table.cast_column(name, datasets.Video(decode=False))
    return table


def values_of(table: Any, where: Path, row: int) -> dict[str, Any]:
    """A row as a manifest's line; a video that the table holds itself is named ``where``/@COLUMN/ROW."""
    values = {key: value for key, value in table[row].items() if value is not None}
    for key in ("video", "context_clip"):
        value = values.get(key)
        if isinstance(value, bytes) or (isinstance(value, dict) and value.get("bytes")):
            values[key] = f"{where.name}/@{key}/{row}"
        elif isinstance(value, dict):
            values[key] = value.get("path")
    return values


def embedded(path: Path) -> bytes | None:
    """The bytes of the video that ``values_of`` named; None if it names none."""
    column, row = path.parent.name, path.name
    if not column.startswith("@") or not row.isdigit() or not path.parent.parent.exists():
        return None
    table = open_table(path.parent.parent)
    if column[1:] not in table.column_names or int(row) >= len(table):
        return None
    value = table[int(row)][column[1:]]
    return value if isinstance(value, bytes) else value and value.get("bytes")


def _split(name: str) -> str:
    return "heldout" if name in HELDOUT else "train"
