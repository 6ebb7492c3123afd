"""Video data on disk: a manifest (JSON lines) beside mp4 files, read and written in one place.

A line has ``id`` and ``context``; and, as far as it is known, ``video`` and ``context_clip`` (paths relative
to the manifest), ``caption``, ``fps``, ``split``.  Every other key is kept as a column.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from rlnsp.atomic import written_whole
from rlnsp.config import ConfigError
from rlnsp.types import Scene

_PATHS = ("video", "context_clip")
_FIELDS = {field.name for field in fields(Scene)} - {"columns"}
_RATE_DENOMINATOR = 1001
"""Of broadcast rates: 24000/1001 is what is called 23.976 frames per second."""


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
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    scenes: dict[str, Scene] = {}
    lines: dict[str, int] = {}
    # Not splitlines(): JSON may hold other line separators, such as U+2028, inside its strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        scene = _scene(line, path.parent, where)
        if scene.id in lines:
            raise ManifestError(
                f"{where}: id {scene.id!r} is on line {lines[scene.id]} already; make ids unique"
            )
        scenes[scene.id], lines[scene.id] = scene, number
    if not scenes:
        raise ManifestError(
            f"{path}: the manifest has no scene; it needs at least one line with an id and a context"
        )
    chosen = [scene for scene in scenes.values() if split is None or scene.split == split]
    if not chosen:
        there = ", ".join(repr(name) for name in sorted({scene.split for scene in scenes.values()}))
        raise ManifestError(f"{path}: no scene of split {split!r}; it has {there}; set 'split' in its lines")
    return chosen


def _scene(line: str, folder: Path, where: str) -> Scene:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        message = f"{where}: not valid JSON ({error.msg} at column {error.colno}); write one object a line"
        raise ManifestError(message) from error
    if not isinstance(row, dict):
        raise ManifestError(f"{where}: must be a JSON object; got {type(row).__name__}")
    for key in ("id", "context"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise ManifestError(f"{where}: {key!r} must be a non-empty string; got {row.get(key)!r}")
    for key in ("caption", "split", *_PATHS):
        if not isinstance(row.get(key), str | None):
            raise ManifestError(f"{where}: {key!r} must be a string; got {row[key]!r}")
    fps = row.get("fps")
    if fps is not None and (
        isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < float("inf")
    ):
        raise ManifestError(f"{where}: 'fps' must be a number of frames per second above 0; got {fps!r}")
    return Scene(
        id=row["id"],
        context=row["context"],
        context_clip=_inside(row.get("context_clip"), "context_clip", folder, where),
        video=_inside(row.get("video"), "video", folder, where),
        caption=row.get("caption"),
        fps=fps,
        split=row.get("split") or "train",
        columns={key: value for key, value in row.items() if key not in _FIELDS},
    )


def _inside(name: str | None, key: str, folder: Path, where: str) -> Path | None:
    if name is None:
        return None
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ManifestError(
            f"{where}: {key} {name!r} leaves the manifest's folder; move the file under {folder}"
        )
    if not path.is_file():
        raise ManifestError(f"{where}: {key} {name!r} is not there; put the file at {path}, or drop the line")
    return path


def write_manifest(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines; the file appears whole or not at all."""
    with written_whole(Path(path)) as aside, aside.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_clip(path: Path | str, max_frames: int | None = None) -> tuple[NDArray[np.uint8], float]:
    """The frames (F, H, W, 3) uint8 of a video file, and its frames per second.

    Raises:
        ManifestError: the file holds no video that can be decoded.
    """
    frames: list[NDArray[np.uint8]] = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ManifestError(
                    f"{path}: has no video stream; give an mp4 with pictures, or drop its line"
                )
            stream = container.streams.video[0]
            fps = float(stream.average_rate or stream.guessed_rate or 0)
            # One for all frames, on one thread: starting either takes longer than converting a small frame.
            to_rgb = VideoReformatter()
            for frame in container.decode(stream):
                picture = to_rgb.reformat(frame, format="rgb24", threads=1)
                frames.append(picture.to_ndarray().astype(np.uint8, copy=False))
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
