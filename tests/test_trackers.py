import io
import os
import sys
from types import ModuleType

import numpy as np
import pytest
from accelerate import PartialState
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlnsp import config, trackers
from rlnsp.config import ConfigError
from rlnsp.manifest import write_clip
from rlnsp.trackers import Clip


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_whose_package_is_missing_is_refused_with_the_command_that_installs_it(
    name, tmp_path, monkeypatch
):
    monkeypatch.setattr(trackers, "find_spec", lambda wanted: None if wanted == name else object())
    with pytest.raises(ConfigError, match=f"{name} is not installed; run: python -m pip install {name}"):
        trackers.start(["tensorboard", name], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_trackers_are_chosen_by_name_and_others_refused():
    assert config.load("world").trainer.trackers == ["tensorboard"]
    chosen = config.load("world", ["trainer.trackers=[wandb,trackio]"])
    assert chosen.trainer.trackers == ["wandb", "trackio"]
    with pytest.raises(ConfigError, match=r"trainer\.trackers.*'weights'.*tensorboard"):
        config.load("world", ["trainer.trackers=[weights]"])


def test_a_run_is_called_as_its_folder_is_and_gets_metrics_alone(tmp_path, monkeypatch):
    """A stand-in for wandb's module keeps what it is called with."""
    said = []

    class Run:
        def log(self, values, step=None):
            said.append((values, step))

        def finish(self):
            said.append("finished")

    module = ModuleType("wandb")
    vars(module)["init"] = lambda **settings: said.append(settings) or Run()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(trackers, "find_spec", lambda wanted: module)
    PartialState(cpu=True)
    (tracker,) = trackers.start(["wandb", "wandb"], tmp_path / "mine")
    tracker.log({"reward": 0.5}, step=3)
    tracker.finish()
    assert said == [
        {"project": "rlnsp", "name": "mine", "dir": str(tmp_path / "mine")},
        ({"reward": 0.5}, 3),
        "finished",
    ]


@pytest.fixture
def clip(tmp_path):
    """Five frames, each of another grey."""
    frames = np.stack([np.full((16, 32, 3), 40 * number, np.uint8) for number in range(5)])
    write_clip(tmp_path / "clip.mp4", frames, 8.0)
    return Clip(file=tmp_path / "clip.mp4", frames=frames, fps=8.0)


def test_tensorboard_gets_a_clip_that_moves_and_forgets_what_came_after_the_checkpoint(tmp_path, clip):
    PartialState(cpu=True)
    for finished, steps in ((0, (1, 2, 3)), (2, (3,))):  # stopped after 3, went on from 2
        (tracker,) = trackers.start(["tensorboard"], tmp_path / "run", finished)
        for step in steps:
            tracker.log({"reward": step + finished}, step=step)
        if not finished:
            trackers.show(tracker, {"clips/a": clip}, step=0)
        tracker.finish()
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [(one.step, one.value) for one in found.Scalars("reward")] == [(1, 1.0), (2, 2.0), (3, 5.0)]
    (shown,) = found.Images("clips/a")
    assert (shown.step, shown.width, shown.height) == (0, 32, 16)
    moving = Image.open(io.BytesIO(shown.encoded_image_string))
    assert moving.format == "GIF"
    greys = []
    for number in range(moving.n_frames):  # pyright: ignore[reportAttributeAccessIssue]
        moving.seek(number)
        greys.append(moving.convert("RGB").getpixel((5, 5)))
        assert moving.info["duration"] == pytest.approx(125, abs=10)
    assert greys == [(40 * number,) * 3 for number in range(5)]


def test_the_real_wandb_takes_metrics_and_clips_offline(tmp_path, clip, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    PartialState(cpu=True)
    (tmp_path / "mine").mkdir()
    (tracker,) = trackers.start(["wandb"], tmp_path / "mine")
    tracker.log({"reward": 0.5}, step=1)
    trackers.show(tracker, {"clips/a": clip}, step=1)
    tracker.finish()
    videos = list((tmp_path / "mine").rglob("media/videos/**/*.mp4"))
    assert [path.read_bytes() for path in videos] == [clip.file.read_bytes()]


def test_the_real_trackio_takes_metrics_and_clips(tmp_path, clip, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")  # which reads that when it is imported
    PartialState(cpu=True)
    (tracker,) = trackers.start(["trackio"], tmp_path / "mine")
    tracker.log({"reward": 0.5}, step=1)
    trackers.show(tracker, {"clips/a": clip}, step=1)
    tracker.finish()
    assert [path for path in (tmp_path / "trackio").rglob("*.mp4")]
    assert os.path.getsize(next((tmp_path / "trackio").rglob("*.db"))) > 0
