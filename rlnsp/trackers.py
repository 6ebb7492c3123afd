"""Where metrics and clips go live: accelerate's trackers, by name.  Nothing else is given to them."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import GeneralTracker, TensorBoardTracker, TrackioTracker, WandBTracker
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

from rlnsp.settings import ConfigError

PROJECT = "rlnsp"
"""What the runs are filed under where a service has projects; a run is called as its folder is."""
NUM_CLIPS = 4
"""Clips of each evaluation that are shown."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip to show."""

    file: Path
    """The same as an mp4."""
    frames: np.ndarray
    """(F, H, W, 3) uint8."""
    fps: float


def check(names: Sequence[str]) -> None:
    """Raise ConfigError if the package of one of ``names`` is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise ConfigError(
                f"trainer.trackers: {name} is not installed; run: python -m pip install {name}, "
                f"or leave it out: trainer.trackers=[tensorboard]"
            )


def start(names: Sequence[str], run: Path, finished: int = 0) -> list[GeneralTracker]:
    """The trackers of ``names`` for a run folder, of which so many iterations are done.

    Raises:
        ConfigError: one's package is not installed.
    """
    check(names)
    made = [_make(name, run, finished) for name in dict.fromkeys(names)]
    for tracker in made:
        tracker.start()
    return made


def show(tracker: GeneralTracker, clips: Mapping[str, Clip], step: int) -> None:
    """Give a tracker clips, by name; the same name at another step is the same clip later."""
    match tracker:
        case TensorBoardTracker():
            # As torch's add_video does it, which wants moviepy for no more than the GIF.
            values = [Summary.Value(tag=name, image=_gif(clip)) for name, clip in clips.items()]
            writer: Any = tracker.tracker.file_writer
            writer.add_summary(Summary(value=values), step)
            tracker.tracker.flush()
        case WandBTracker():
            import wandb  # pyright: ignore[reportMissingImports]

            videos = {name: wandb.Video(str(clip.file), format="mp4") for name, clip in clips.items()}
            tracker.log(videos, step)
        case TrackioTracker():
            import trackio  # pyright: ignore[reportMissingImports]

            videos = {name: trackio.Video(str(clip.file), format="mp4") for name, clip in clips.items()}
            tracker.log(videos, step)


def _make(name: str, run: Path, finished: int) -> GeneralTracker:
    match name:
        case "tensorboard":
            # The name of its folder in the run's.  What it has from after the checkpoint is hidden.
            purge = {"purge_step": finished + 1} if finished else {}
            return TensorBoardTracker("tensorboard", run, **purge)
        case "wandb":
            return WandBTracker(PROJECT, name=run.name, dir=str(run))
        case "trackio":
            return TrackioTracker(PROJECT, name=run.name)
    raise ConfigError(f"trainer.trackers: {name!r} is not known; allowed are tensorboard, wandb, trackio")


def _gif(clip: Clip) -> Summary.Image:
    first, *rest = [Image.fromarray(frame) for frame in clip.frames]
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=rest, duration=round(1000 / clip.fps), loop=0)
    height, width = clip.frames.shape[1:3]
    return Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=file.getvalue())
