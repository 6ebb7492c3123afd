"""Video data on disk: a manifest (JSON lines) beside mp4 files, read and written in one place.

A line has ``id`` and ``context``; and, as far as it is known, ``video`` and ``context_clip`` (paths relative to the
manifest), ``caption``, ``fps``, ``split``.  Every other key is kept as a column.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from rlnsp.config import ConfigError
from rlnsp.types import Scene

_PATHS = ("video", "context_clip")
_FIELDS = {field.name for field in fields(Scene)} - {"columns"}


class ManifestError(ConfigError):
    """A manifest cannot be used; the message names the file, the line and the remedy."""


def read_manifest(path: Path | str, split: str | None = None) -> list[Scene]:
    """The scenes of a manifest, of one ``split`` or of all.

    Raises:
        ManifestError: no such file, no scene in it, a line that is not valid, or one whose file is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise ManifestError(
            f"{path}: no such manifest; give a JSON-lines file, or 'world' for the embedded world"
        )
    scenes: list[Scene] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        scene = _scene(line, path.parent, where)
        if scene.id in seen:
            raise ManifestError(
                f"{where}: id {scene.id!r} was given on line {seen[scene.id]} already; make ids unique"
            )
        seen[scene.id] = number
        if split is None or scene.split == split:
            scenes.append(scene)
    if not scenes:
        what = "scene" if split is None else f"scene of split {split!r}"
        raise ManifestError(
            f"{path}: the manifest has no {what}; it needs at least one line with an id and a context"
        )
    return scenes


def _scene(line: str, folder: Path, where: str) -> Scene:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ManifestError(
            f"{where}: not valid JSON ({error.msg} at column {error.colno}); write one object a line"
        ) from error
    if not isinstance(row, dict):
        raise ManifestError(f"{where}: must be a JSON object; got {type(row).__name__}")
    for key in ("id", "context"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise ManifestError(f"{where}: {key!r} must be a non-empty string; got {row.get(key)!r}")
    paths: dict[str, Path] = {}
    for key in _PATHS:
        if row.get(key) is None:
            continue
        paths[key] = (folder / row[key]).resolve()
        if not paths[key].is_relative_to(folder.resolve()):
            raise ManifestError(
                f"{where}: {key} {row[key]!r} leaves the manifest's folder; move the file under {folder}"
            )
        if not paths[key].is_file():
            raise ManifestError(f"{where}: {key} {row[key]!r} is not there; expected the file {paths[key]}")
    known = {key: row[key] for key in _FIELDS - set(_PATHS) if row.get(key) is not None}
    columns = {key: value for key, value in row.items() if key not in _FIELDS}
    return Scene(**known, **paths, columns=columns)


def write_manifest(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines; the file appears whole or not at all."""
    path = Path(path)
    aside = path.with_name(path.name + ".part")
    with aside.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    aside.replace(path)


def read_clip(path: Path | str, max_frames: int | None = None) -> tuple[NDArray[np.uint8], float]:
    """The frames (F, H, W, 3) uint8 of a video file, and its frames per second.

    Raises:
        ManifestError: the file holds no video that can be decoded.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ManifestError(f"{path}: has no video stream; give an mp4 with pictures")
            stream = container.streams.video[0]
            fps = float(stream.average_rate or stream.guessed_rate or 0)
            frames = []
            for frame in container.decode(stream):
                frames.append(frame.to_ndarray(format="rgb24"))
                if max_frames is not None and len(frames) == max_frames:
                    break
    except (FFmpegError, OSError) as error:
        raise ManifestError(
            f"{path}: cannot be decoded ({error}); encode it again, or drop its line"
        ) from error
    if not frames or fps <= 0:
        raise ManifestError(f"{path}: no frame could be decoded; encode it again, or drop its line")
    return np.stack(frames), fps


def write_clip(path: Path | str, frames: NDArray[np.uint8], fps: float) -> None:
    """Encode frames (F, H, W, 3) uint8 with even H and W as H.264 that browsers play; whole or not at all."""
    path = Path(path)
    aside = path.with_name(path.name + ".part")
    with av.open(str(aside), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=round(fps * 1000) / 1000 if fps % 1 else int(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "10", "preset": "veryfast", "threads": "1"}
        for frame in frames:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))
            )
        container.mux(stream.encode())
    aside.replace(path)
