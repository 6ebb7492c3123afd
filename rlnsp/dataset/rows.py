"""One reader of every form of a data set: its rows, each as a line of a manifest.

Forms: a manifest (JSON lines); a folder with one; a folder of videos; tar shards, one or a folder of them; a
data set of ``datasets``, saved to disk, parquet, JSON, or on a hub.  In folders and shards the files of a row
have one name: ``NAME.mp4`` the video, ``NAME.json`` what a manifest's line would say, ``NAME.txt`` the
caption.  In shards a name ends at its first dot, as WebDataset has it; in folders it may have more.  Where
pictures are asked for, one may stand in the video's place.  Rows are read when they are asked for; kept are
their places.
"""

import json
import os
from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

from rlnsp.dataset import hub, hub_format
from rlnsp.dataset.safety import UnsafePath, inside
from rlnsp.dataset.shards import open_shard
from rlnsp.settings import ConfigError

MANIFEST = "manifest.jsonl"
VIDEOS = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
BESIDE = (".json", ".context.txt", ".txt")
"""What may stand beside a video; the longer ending before the one that it ends in."""
MAX_TEXT = 1_000_000
"""Bytes of a row's .json or .txt."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a data set says of one scene."""

    where: str
    """For messages: file and line, shard and key."""
    root: Path
    """What ``video`` and ``context_clip`` are relative to, and may not leave."""
    values: Mapping[str, Any]
    """The keys of a manifest's line; not checked yet."""


class Rows(Sequence[Row]):
    """Rows by number."""

    def __init__(self, parts: Iterable[tuple[int, Callable[[int], Row]]], broken: Sequence[str] = ()) -> None:
        """Of parts, each with its number of rows and what reads one."""
        self._parts = list(parts)
        self._ends = list(accumulate(count for count, _ in self._parts))
        self.broken = list(broken)
        """Files that break off, each with the reason: rows that they should have are not there."""

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, row: Any) -> Any:
        """A row.

        Raises:
            ConfigError: it is not valid; the message says where.
        """
        if not 0 <= row < len(self):
            raise IndexError(row)
        part = bisect_right(self._ends, row)
        count, read = self._parts[part]
        return read(row - (self._ends[part] - count))

    def __iter__(self) -> Iterator[Row]:
        for count, read in self._parts:
            yield from map(read, range(count))


def open_rows(path: Path | str, *, pictures: bool = False) -> Rows:
    """The rows of a data set in any form.

    Args:
        path: of the data set; or its name on a hub, as ``rlnsp.dataset.hub`` has it.
        pictures: in folders and shards, a picture that has no video of its name is a row too; in tables, the
            picture of a row that has no video is taken for it.

    Raises:
        ConfigError: there is none, or it is none of the forms, or of several.
    """
    if hub.is_on_hub(path):
        return _tables(path, pictures=pictures)
    path = Path(path)
    suffixes = (*VIDEOS, *PICTURES) if pictures else VIDEOS
    if path.is_dir():
        return _folder(path, suffixes, pictures=pictures)
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such manifest; give a JSON-lines file, a folder of videos or of tar shards, a data "
            f"set of `datasets`, on a hub as {hub.SCHEME}OWNER/NAME, or 'world' for the embedded world"
        )
    if path.suffix == ".tar":
        return _shards([path], suffixes)
    if path.suffix in hub_format.SUFFIXES:
        return _tables(path, pictures=pictures)
    return _lines(path)


def _folder(path: Path, suffixes: Sequence[str], *, pictures: bool) -> Rows:
    if (path / MANIFEST).is_file():
        return _lines(path / MANIFEST)
    if hub_format.is_saved(path) or any(path.glob("*.parquet")):
        return _tables(path, pictures=pictures)
    shards, names = sorted(path.glob("*.tar")), sorted(_files(path))
    videos = _grouped(path, names, suffixes, _to_known_ending)
    # Of a repository: beside its tables may be pictures, for its page.
    clips = any(suffix in group for group in videos.values() for suffix in VIDEOS)
    if not shards and not clips and hub_format.parquet_files(path):
        return _tables(path, pictures=pictures)
    if shards and videos:
        raise ConfigError(f"{path}: has tar shards and videos; put them into folders of their own")
    if not shards and not videos:
        raise ConfigError(
            f"{path}: has neither {MANIFEST}, nor videos ({', '.join(suffixes)}), nor tar shards, nor a data "
            "set of `datasets`"
        )
    return _shards(shards, suffixes) if shards else _videos(path, videos)


def _lines(path: Path) -> Rows:
    """Of a manifest: the lines that are not empty, by their places in the file."""
    numbers, places = array("Q"), array("Q")
    with path.open("rb") as file:
        place = 0
        # Only at \n: JSON may hold other line separators, such as U+2028, inside its strings.
        for number, line in enumerate(file, start=1):
            if line.strip(b"\xef\xbb\xbf \t\r\n"):
                numbers.append(number)
                places.append(place)
            place += len(line)

    def read(row: int) -> Row:
        with path.open("rb") as file:
            file.seek(places[row])
            line = file.readline()
        return _line(line, path, numbers[row])

    return Rows([(len(places), read)])


def _line(line: bytes, path: Path, number: int) -> Row:
    where = f"{path}:{number}"
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    return Row(where=where, root=path.parent, values=_object(text, where, "write one object a line"))


def _object(text: str, where: str, remedy: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        message = f"{where}: not valid JSON ({error.msg} at column {error.colno}); {remedy}"
        raise ConfigError(message) from error
    except (RecursionError, ValueError) as error:  # lists too deep for Python's reader, or numbers too long
        raise ConfigError(f"{where}: not JSON that can be read ({error}); {remedy}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: must be a JSON object; got {type(values).__name__}")
    return values


def _files(folder: Path) -> Iterator[str]:
    """Every file below, by its name from there; links to folders are not followed."""
    for above, _, names in os.walk(folder):
        for name in names:
            yield (Path(above) / name).relative_to(folder).as_posix()


def _grouped(
    where: Path, names: Iterable[str], suffixes: Sequence[str], split: Callable[[str], tuple[str, str]]
) -> dict[str, dict[str, str]]:
    """Names by what they share, of each by its ending; only those of which one has one of the ``suffixes``.

    Args:
        where: for messages.
        names: of files, hidden ones among them, which are left out.
        suffixes: of what makes a row.
        split: of a file's name, the row's own name and the ending.

    Raises:
        ConfigError: two videos share a name.
    """
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        path = PurePosixPath(name)
        stem, ending = split(path.name)
        if not stem or path.name.startswith("."):
            continue
        group = groups[str(path.parent / stem)]
        other = next((group[suffix] for suffix in VIDEOS if suffix in group), None)
        if other is not None and ending.lower() in VIDEOS:
            raise ConfigError(f"{where}: {other} and {name} are two videos of one name; rename one")
        group[ending.lower()] = name
    return {key: group for key, group in groups.items() if any(suffix in suffixes for suffix in group)}


def _to_first_dot(name: str) -> tuple[str, str]:
    """As WebDataset tells a key from what it is of."""
    stem, dot, rest = name.partition(".")
    return stem, dot + rest


def _to_known_ending(name: str) -> tuple[str, str]:
    """Names of people's own files may have dots in them."""
    low = name.lower()
    ending = next((one for one in (*VIDEOS, *PICTURES, *BESIDE) if low.endswith(one)), "")
    return name[: len(name) - len(ending)], ending


def _videos(folder: Path, groups: Mapping[str, Mapping[str, str]]) -> Rows:
    keys = sorted(groups)

    def read(row: int) -> Row:
        key = keys[row]
        return _of_files(folder / key, folder, key, groups[key], lambda name: _start(folder, name), prefix="")

    return Rows([(len(keys), read)])


def _start(folder: Path, name: str) -> bytes:
    try:
        path = inside(name, folder)
    except UnsafePath as error:
        raise ConfigError(f"{folder / name}: {error}; put the file itself there, or drop it") from error
    with path.open("rb") as file:
        return file.read(MAX_TEXT + 1)


def _shards(paths: Sequence[Path], suffixes: Sequence[str]) -> Rows:
    parts: list[tuple[int, Callable[[int], Row]]] = []
    broken: list[str] = []
    for path in paths:
        shard = open_shard(path)
        if shard.broken:
            broken.append(f"{path}: {shard.broken}")
        parts.append(_shard_part(path, suffixes))
    return Rows(parts, broken)


def _shard_part(path: Path, suffixes: Sequence[str]) -> tuple[int, Callable[[int], Row]]:
    shard = open_shard(path)
    groups = _grouped(path, shard.members, suffixes, _to_first_dot)
    keys = list(groups)  # in the shard's own order, which is that of its bytes

    def read(row: int) -> Row:
        key = keys[row]
        where = path / key
        return _of_files(where, path.parent, f"{path.stem}/{key}", groups[key], shard.read, f"{path.name}/")

    return len(keys), read


def _of_files(
    where: Path, root: Path, key: str, group: Mapping[str, str], read: Callable[[str], bytes], prefix: str
) -> Row:
    """A row of files of one name; ``prefix`` leads from the root to them."""
    values: dict[str, Any] = {"id": key}
    values["video"] = prefix + next(group[suffix] for suffix in (*VIDEOS, *PICTURES) if suffix in group)
    for key, suffix in (("caption", ".txt"), ("context", ".context.txt")):
        if suffix in group:
            values[key] = _text(read(group[suffix]), f"{where}{suffix}").strip()
    if ".json" in group:
        name = f"{where}.json"
        said = _object(_text(read(group[".json"]), name), name, "write one object, or drop the file")
        # The file that lies there is the video, whatever else is said.
        values |= {name: value for name, value in said.items() if name not in ("video", "context_clip")}
    return Row(where=str(where), root=root, values=values)


def _text(data: bytes, where: str) -> str:
    if len(data) > MAX_TEXT:
        raise ConfigError(f"{where}: has more than {MAX_TEXT} bytes; shorten it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: not UTF-8 text ({error.reason}); save it as UTF-8") from error


def _tables(place: Path | str, *, pictures: bool) -> Rows:
    # Videos are named from the folder that holds the table.
    parts: list[tuple[int, Callable[[int], Row]]] = []
    before = 0
    for part in hub_format.open_tables(place):
        parts.append((len(part.table), _table_part(part, before, pictures=pictures)))
        before += len(part.table)
    return Rows(parts)


def _table_part(part: hub_format.Part, before: int, *, pictures: bool) -> Callable[[int], Row]:
    def read(row: int) -> Row:
        said = hub_format.values_of(part, row, pictures=pictures)
        return Row(
            where=f"{part.name}, row {part.first + row}",
            root=part.path.parent,
            values={"id": f"{before + row:08d}", "split": part.split, **said},
        )

    return read
