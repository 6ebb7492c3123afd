import numpy as np
import pytest

from pretrain.clips import read_clips
from pretrain.world_data import MANIFEST, write_world
from rlnsp.manifest import ManifestError, read_manifest, write_clip, write_manifest
from rlnsp.world import Tracker
from rlnsp.world.events import split_of
from rlnsp.world.language import parse

SHAPE = (9, 64, 64)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"), 14, 7, seed=3)


def test_true_clips_on_disk_pass_the_tracker(world):
    for split, n in (("train", 14), ("heldout", 7)):
        clips = read_clips(world, split, SHAPE, 8.0)
        assert clips.frames.shape == (n, *SHAPE, 3)
        assert clips.fps == 8.0
        verdicts = Tracker().judge([scene.context for scene in clips.scenes], clips.frames)
        assert all(verdict.passed for verdict in verdicts)


def test_every_scene_has_what_the_stages_train_on(world):
    for scene in read_manifest(world):
        event = parse(scene.context)
        assert split_of(event) == scene.split
        assert scene.columns["source"] == "rlnsp.world"
        assert scene.columns["kind"] == event.kind
        assert scene.columns["facts"]["actor"] == event.actor
        assert scene.caption is not None
        assert event.actor in scene.caption
        assert scene.fps == 8.0


def test_the_same_seed_writes_the_same_world(world, tmp_path):
    again = write_world(tmp_path, 14, 7, seed=3)
    assert again.read_text() == world.read_text()
    for split in ("train", "heldout"):
        first, second = (read_clips(path, split, SHAPE, 8.0).frames for path in (world, again))
        np.testing.assert_array_equal(first, second)


def test_a_world_that_is_there_is_left_as_it_is(world):
    before = world.stat().st_mtime_ns
    assert write_world(world.parent, 2, 2, seed=9) == world
    assert world.stat().st_mtime_ns == before


def test_a_world_that_breaks_off_has_no_manifest_and_is_written_at_the_next_call(tmp_path, monkeypatch):
    written = []

    def failing(path, frames, fps):
        if len(written) == 3:
            raise OSError("disk full")
        written.append(path)
        write_clip(path, frames, fps)

    with monkeypatch.context() as patch:
        patch.setattr("pretrain.world_data.write_clip", failing)
        with pytest.raises(OSError, match="disk full"):
            write_world(tmp_path, 4, 2, seed=0)
    assert not (tmp_path / MANIFEST).exists()
    assert len(read_manifest(write_world(tmp_path, 4, 2, seed=0))) == 6


@pytest.mark.parametrize(
    ("shape", "fps", "message"),
    [
        (
            (9, 64, 48),
            8.0,
            "has 9 frames of 64x64 at 8 fps; this policy takes 9 frames of 64x48 at 8 fps; cut and scale",
        ),
        ((5, 64, 64), 8.0, "this policy takes 5 frames"),
        ((17, 64, 64), 8.0, "has 9 frames"),
        ((9, 64, 64), 16.0, "this policy takes 9 frames of 64x64 at 16 fps"),
    ],
)
def test_clips_of_another_shape_or_rate_are_refused(shape, fps, message, world):
    with pytest.raises(ManifestError, match=message):
        read_clips(world, "train", shape, fps)


def test_a_scene_without_a_clip_is_refused(tmp_path):
    write_manifest(tmp_path / "m.jsonl", [{"id": "a", "context": "x"}])
    with pytest.raises(ManifestError, match="scene 'a' has no video; this stage trains on clips"):
        read_clips(tmp_path / "m.jsonl", "train", SHAPE, 8.0)
