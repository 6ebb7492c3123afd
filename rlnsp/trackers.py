"""Where metrics go live: accelerate's trackers, by name.  Nothing but metrics is given to them."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from accelerate.tracking import GeneralTracker, TensorBoardTracker, TrackioTracker, WandBTracker

from rlnsp.settings import ConfigError

PROJECT = "rlnsp"
"""What the runs are filed under where a service has projects; a run is called as its folder is."""


def make(names: Sequence[str], run: Path) -> list[GeneralTracker]:
    """The trackers of ``names`` for a run folder, not started yet.

    Raises:
        ConfigError: one's package is not installed.
    """
    for name in names:
        if find_spec(name) is None:
            raise ConfigError(
                f"trainer.trackers: {name} is not installed; run: python -m pip install {name}, "
                f"or leave it out: trainer.trackers=[tensorboard]"
            )
    return [_make(name, run) for name in dict.fromkeys(names)]


def _make(name: str, run: Path) -> GeneralTracker:
    match name:
        case "tensorboard":
            return TensorBoardTracker("tensorboard", run)  # the name of its folder in the run's
        case "wandb":
            return WandBTracker(PROJECT, name=run.name, dir=str(run))
        case "trackio":
            return TrackioTracker(PROJECT, name=run.name)
    raise ConfigError(f"trainer.trackers: {name!r} is not known; allowed are tensorboard, wandb, trackio")
