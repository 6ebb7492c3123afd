"""Video data on disk: a manifest (JSON lines) beside mp4 files, read and written in one place.

A line has ``id`` and ``context``, the preceding scene; and, as far as it is known, ``video`` and
``context_clip`` (paths relative to the manifest), ``caption``, ``fps``, ``split``, ``source``.  Every other
key is kept as a column.  A video in a tar shard is named as if the shard were a folder: ``000.tar/clip.mp4``.
"""

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from rlnsp.atomic import written_whole
from rlnsp.config import ConfigError
from rlnsp.dataset.frames import whole_clip
from rlnsp.dataset.hub import place_of
from rlnsp.dataset.rows import Row, Rows, open_rows
from rlnsp.dataset.safety import Limits, UnsafePath, inside
from rlnsp.dataset.video import UnusableVideo, is_there
from rlnsp.types import Scene

_PATHS = ("video", "context_clip")
_FIELDS = {field.name for field in fields(Scene)} - {"columns", "limits"}
_RATE_DENOMINATOR = 1001
"""Of broadcast rates: 24000/1001 is what is called 23.976 frames per second."""


class ManifestError(ConfigError):
    """A manifest cannot be used; the message names the file, the line and the remedy."""


def read_manifest(
    path: Path | str,
    split: str | None = None,
    *,
    need_context: bool = True,
    limits: Limits | None = None,
) -> list[Scene]:
    """The scenes of a data set, of one ``split`` or of all; ``rlnsp.dataset.rows`` has its forms.

    Args:
        path: of the manifest, folder, shard or data set; or its name on a hub.
        split: such as 'train'.
        need_context: False, and a scene may have none, as a captioned video has; it is then empty.
        limits: that the scenes hand on to whoever reads their videos.

    Raises:
        ManifestError: nothing there, no scene in it, a row that is not valid, or one whose file is missing.
    """
    scenes = open_manifest(path, split, need_context=need_context, need_files=True)
    return [replace(scene, limits=limits) if limits else scene for scene in scenes]


def open_manifest(
    path: Path | str,
    split: str | None = None,
    *,
    need_context: bool = True,
    need_files: bool = False,
    pictures: bool = False,
) -> "Scenes":
    """As ``read_manifest``, but scenes are read when they are asked for: of any number of them.

    Every row is looked at once, now; with ``need_files`` its files too.  ``pictures``: as ``open_rows``.
    """
    path = place_of(path) if isinstance(path, str) else path
    with _as_manifest_error():
        rows = open_rows(path, pictures=pictures)
        if need_files and rows.broken:
            raise ManifestError(f"{rows.broken[0]}; make it anew, or drop it")
        seen: dict[str, int] = {}
        chosen, splits = array("Q"), set[str]()
        for number, row in enumerate(rows):
            scene = _scene(row, need_context=need_context, need_files=need_files)
            if scene.id in seen:
                first = rows[seen[scene.id]].where.removeprefix(f"{path}:")
                raise ManifestError(
                    f"{row.where}: id {scene.id!r} is on line {first} already; make ids unique"
                )
            seen[scene.id] = number
            splits.add(scene.split)
            if split is None or scene.split == split:
                chosen.append(number)
    if not seen:
        raise ManifestError(
            f"{path}: the manifest has no scene; it needs at least one line with an id and a context"
        )
    if not chosen:
        there = ", ".join(repr(name) for name in sorted(splits))
        raise ManifestError(f"{path}: no scene of split {split!r}; it has {there}; set 'split' in its lines")
    return Scenes(rows, chosen, need_context=need_context)


class Scenes(Sequence[Scene]):
    """Scenes of a data set, by number; kept are only their places."""

    def __init__(self, rows: Rows, chosen: Sequence[int], *, need_context: bool) -> None:
        self.rows, self._chosen, self._need_context = rows, chosen, need_context

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, number: Any) -> Any:
        """A scene.

        Raises:
            ManifestError: its video leaves the data's root.
        """
        with _as_manifest_error():
            return _scene(self.rows[self._chosen[number]], need_context=self._need_context, need_files=False)


@contextmanager
def _as_manifest_error() -> Iterator[None]:
    try:
        yield
    except ManifestError:
        raise
    except ConfigError as error:
        raise ManifestError(str(error)) from error


def _scene(row: Row, *, need_context: bool, need_files: bool) -> Scene:
    said, where = row.values, row.where
    for key in ("id", "context") if need_context else ("id",):
        if not isinstance(said.get(key), str) or not said[key].strip():
            raise ManifestError(f"{where}: {key!r} must be a non-empty string; got {said.get(key)!r}")
    for key in ("context", "caption", "split", *_PATHS):
        if not isinstance(said.get(key), str | None):
            raise ManifestError(f"{where}: {key!r} must be a string; got {said[key]!r}")
    for key, value in said.items():
        if isinstance(value, str) and not _is_text(value):
            raise ManifestError(
                f"{where}: {key!r} is not text that can be written as UTF-8; got {value!r}: rename the file, "
                "or write the text anew"
            )
    fps = said.get("fps")
    if fps is not None and (
        isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < float("inf")
    ):
        raise ManifestError(f"{where}: 'fps' must be a number of frames per second above 0; got {fps!r}")
    return Scene(
        id=said["id"],
        context=said.get("context") or "",
        context_clip=_file(row, "context_clip", need_files),
        video=_file(row, "video", need_files),
        caption=said.get("caption"),
        fps=fps,
        split=said.get("split") or "train",
        columns={key: value for key, value in said.items() if key not in _FIELDS},
    )


def _is_text(value: str) -> bool:
    """No lone surrogate, as a file's name that is not UTF-8 has."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _file(row: Row, key: str, need: bool) -> Path | None:
    name = row.values.get(key)
    if name is None:
        return None
    try:
        path = inside(name, row.root)
    except UnsafePath as error:
        raise ManifestError(
            f"{row.where}: {key} {name!r} leaves the manifest's folder; move the file under {row.root}, and "
            f"name it from there (it {error})"
        ) from error
    if need and not is_there(path):
        raise ManifestError(
            f"{row.where}: {key} {name!r} is not there; put the file at {path}, or drop the line"
        )
    return path


def write_manifest(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines; the file appears whole or not at all."""
    with written_whole(Path(path)) as aside, aside.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_clip(
    path: Path | str, max_frames: int | None = None, limits: Limits | None = None
) -> tuple[NDArray[np.uint8], float]:
    """The frames (F, H, W, 3) uint8 of a video, and its frames per second.

    Args:
        path: a file; or, through a shard or a table, what a manifest names in it.
        max_frames: the first so many.
        limits: on the file; by default those of ``Limits``.

    Raises:
        ManifestError: it holds no video that can be decoded, or is more than the limits.
    """
    try:
        return whole_clip(Path(path), limits or Limits(), max_frames)
    except UnusableVideo as error:
        raise unusable(path, error) from error


def unusable(path: Path | str, error: UnusableVideo) -> ManifestError:
    """What to say of a file that a scene needs, and that cannot be used."""
    return ManifestError(f"{path}: {error}; encode it again, or drop its line")


def write_clip(path: Path | str, frames: NDArray[np.uint8], fps: float) -> None:
    """Encode frames (F, H, W, 3) uint8 as H.264 that browsers play; the file appears whole or not at all.

    Raises:
        ValueError: no frames, an odd height or width, or another type or shape.
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or frames.size == 0 or fps <= 0:
        raise ValueError(
            f"{path}: frames must be uint8 (F, H, W, 3) at fps > 0; got {frames.dtype} {frames.shape}, {fps}"
        )
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(
            f"{path}: height and width must be even for H.264; got {frames.shape[1]}x{frames.shape[2]}"
        )
    with written_whole(Path(path)) as aside, av.open(str(aside), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(_RATE_DENOMINATOR))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "10", "preset": "veryfast", "threads": "1"}
        for frame in frames:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))
            )
        container.mux(stream.encode())
