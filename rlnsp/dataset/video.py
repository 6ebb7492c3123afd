"""Frames of a video file, with their times, within limits; the file may lie in a shard or a table."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import av
from av.container import InputContainer
from av.error import FFmpegError

from rlnsp.dataset import hub_format
from rlnsp.dataset.safety import Limits
from rlnsp.dataset.shards import Shard, open_shard

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
"""Containers that hold their own pictures.  Others, such as playlists, make FFmpeg open what they name,
whatever the file is called."""


EDGES = 2**20
"""Pixels that a decoder may add to a frame."""

Kind = Literal["missing", "broken", "no pictures", "too short", "too large", "too long"]


class UnusableVideo(ValueError):
    """A video cannot be used; the message says why, and ``kind`` what it is counted as."""

    def __init__(self, kind: Kind, why: str) -> None:
        super().__init__(why)
        self.kind: Kind = kind


def is_there(path: Path) -> bool:
    """There is such a file, or a member of a shard, or a cell of a table."""
    if path.is_file():
        return True
    try:
        return _within(path) is not None
    except OSError:
        return False


def size_of(path: Path) -> int:
    """Bytes, also of a member of a shard or a cell of a table; 0 where there is none."""
    if path.is_file():
        return path.stat().st_size
    held = _within(path)
    return held[0] if held else 0


def place_of(path: Path, limits: Limits) -> str | io.BytesIO:
    """What to open in the place of ``path``: the file, or the bytes that a shard or a table has.

    Raises:
        UnusableVideo: it is not there, or larger than the limits.
    """
    held = None if path.is_file() else _within(path)
    if held is None and not path.is_file():
        raise UnusableVideo("missing", "is not there")
    size = held[0] if held else path.stat().st_size
    if size > limits.max_file_mb * 1e6:
        raise UnusableVideo(
            "too large", f"has {size / 1e6:.1f} MB, more than max_file_mb {limits.max_file_mb:g}"
        )
    return io.BytesIO(held[1]()) if held else str(path)


@contextmanager
def opened(path: Path, limits: Limits) -> Iterator[InputContainer]:
    """The file as PyAV has it, which must have a video stream.

    Raises:
        UnusableVideo: it is not there, is no video, or is more than the limits.
    """
    source = place_of(path, limits)
    try:
        with av.open(source, "r", container_options={"format_whitelist": FORMATS}) as container:
            if not container.streams.video:
                raise UnusableVideo("no pictures", "has no video stream")
            yield container
    except (FFmpegError, OSError) as error:
        raise UnusableVideo("broken", f"cannot be decoded ({error.strerror or error})") from error


def decoded(
    container: InputContainer, limits: Limits, start: float = 0.0
) -> Iterator[tuple[float, av.VideoFrame]]:
    """(seconds since the first, frame) in the order in which they are shown.

    Times are the frames' own, where they have them: rates may vary.

    Args:
        container: what ``opened`` gives.
        limits: on a frame's pixels, and on the time.
        start: seconds; frames before the last key frame up to there may be left out.

    Raises:
        UnusableVideo: more than the limits.
        FFmpegError: broken; ``opened`` turns it into UnusableVideo.
    """
    stream = container.streams.video[0]
    _check_pixels(stream.width, stream.height, limits)
    # Sizes may change on the way: each frame is looked at, and the decoder, which counts the edges that it
    # adds, asks for no memory for one that is far too large.
    stream.codec_context.options = {"max_pixels": str(2 * limits.max_pixels + EDGES)}
    rate, unit = frame_rate(container), float(stream.time_base or 0)
    first = (stream.start_time or 0) * unit
    if start > 0 and unit:
        container.seek(int((first + start) / unit), stream=stream)
    for count, frame in enumerate(container.decode(stream)):
        _check_pixels(frame.width, frame.height, limits)
        seconds = count / rate if frame.pts is None or not unit else frame.pts * unit - first
        if seconds > limits.max_seconds:
            raise UnusableVideo("too long", f"is longer than max_seconds {limits.max_seconds:g}")
        yield seconds, frame


def frame_rate(container: InputContainer) -> float:
    """Frames per second, on average.

    Raises:
        UnusableVideo: the file does not say.
    """
    stream = container.streams.video[0]
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    if rate <= 0:
        raise UnusableVideo("broken", "has no frame rate")
    return rate


def _check_pixels(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise UnusableVideo(
            "too large", f"has frames of {height}x{width} pixels, more than max_pixels {limits.max_pixels}"
        )


def _member(shard: Shard, name: str) -> tuple[int, Callable[[], bytes]] | None:
    return (shard.members[name][1], lambda: shard.read(name)) if name in shard.members else None


def _within(path: Path) -> tuple[int, Callable[[], bytes]] | None:
    """Size and bytes of a shard's member or a table's cell, whose name leads through what holds it."""
    for above in path.parents:
        if above.suffix == ".tar" and above.is_file():
            return _member(open_shard(above), path.relative_to(above).as_posix())
    return hub_format.embedded(path)
