"""Video files of every kind that data has: hard cuts, odd sizes, rates that vary, and broken ones."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

TICK = Fraction(1, 1000)


def moving(colour: tuple[int, int, int], frames: int, height: int = 72, width: int = 96) -> np.ndarray:
    """A bright bar that moves over a coloured ground; (F, H, W, 3)."""
    clip = np.empty((frames, height, width, 3), np.uint8)
    clip[:] = colour
    for t in range(frames):
        left = (3 * t) % (width - 8)
        clip[t, height // 4 : height // 2, left : left + 8] = 255
    return clip


RED, GREEN, BLUE = (170, 30, 30), (30, 150, 40), (30, 40, 170)


def cut_together(*colours: tuple[int, int, int], frames: int = 20, **size: int) -> np.ndarray:
    """Scenes of so many frames each, with hard cuts."""
    return np.concatenate([moving(colour, frames, **size) for colour in colours])


def encode(
    path: Path, frames: np.ndarray, fps: float = 16.0, times: Sequence[float] | None = None, sar: str = "1"
) -> Path:
    """An mp4, of any size; with ``times`` (seconds) frames come then, and the rate varies."""
    times = [n / fps for n in range(len(frames))] if times is None else times
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames.shape[1:3]
        odd = stream.height % 2 or stream.width % 2
        stream.pix_fmt = "yuv444p" if odd else "yuv420p"
        stream.codec_context.time_base = stream.time_base = TICK
        stream.codec_context.sample_aspect_ratio = Fraction(sar)
        stream.options = {"crf": "8", "preset": "ultrafast", "threads": "1"}
        for time, frame in zip(times, frames, strict=True):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = round(time / TICK), TICK
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def truncated(path: Path, frames: np.ndarray) -> Path:
    """An mp4 that lost its end, and with it the table of its frames."""
    encode(path, frames)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def raw_videos(folder: Path) -> Path:
    """What a user brings to ``rlnsp curate``: three scenes, one, a tall one, and a file that breaks off."""
    encode(folder / "three.mp4", cut_together(RED, GREEN, BLUE))
    encode(folder / "long.mp4", moving(GREEN, 20, 120, 160))
    encode(folder / "tall.mp4", moving(BLUE, 24, 96, 70))
    truncated(folder / "truncated.mp4", moving(RED, 30))
    return folder


def audio_only(path: Path) -> Path:
    """Sound in an mp4."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
