import json

import numpy as np
import pytest

from policies.first_frame import first_frames
from policies.unified import Unified
from rlnsp.benchmark import suite
from rlnsp.built_reward import _context_frames
from rlnsp.config import ConfigError, load
from rlnsp.data import SceneOrder, heldout_scenes, train_scenes, true_clips
from rlnsp.limits import Limits
from rlnsp.manifest import write_clip, write_manifest
from rlnsp.settings import DataConfig
from rlnsp.types import Scene

SCENES = [Scene(id=str(i), context=str(i)) for i in range(10)]


def test_no_scene_comes_twice_in_an_epoch():
    order = SceneOrder(SCENES, 3, seed=0)
    epoch = [scene.id for iteration in range(3) for scene in order(iteration)]
    assert len(set(epoch)) == 9


def test_epochs_are_ordered_anew_and_leave_out_others():
    order = SceneOrder(SCENES, 3, seed=0)
    epochs = [[scene.id for i in range(3) for scene in order(3 * epoch + i)] for epoch in range(20)]
    assert len({tuple(epoch) for epoch in epochs}) == 20
    assert len({frozenset(epoch) for epoch in epochs}) > 1


def test_an_iterations_scenes_follow_from_its_number():
    assert SceneOrder(SCENES, 4, seed=0)(17) == SceneOrder(SCENES, 4, seed=0)(17)
    assert SceneOrder(SCENES, 4, seed=0)(17) != SceneOrder(SCENES, 4, seed=1)(17)


def test_more_scenes_an_iteration_than_there_are_is_refused():
    with pytest.raises(ConfigError, match="scenes_per_iteration is 11, but data.train has 10"):
        SceneOrder(SCENES, 11, seed=0)


def manifest(path, splits):
    rows = [{"id": str(i), "context": f"c{i}", "split": split} for i, split in enumerate(splits)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def test_one_manifest_serves_both_by_its_splits(tmp_path):
    both = manifest(tmp_path / "both.jsonl", ["train", "heldout", "train", "heldout"])
    data = DataConfig(train=both, heldout=both)
    assert [scene.id for scene in train_scenes(data, 0)] == ["0", "2"]
    assert [scene.id for scene in heldout_scenes(data, 1, 0)] == ["1"]


def test_one_manifest_without_a_held_out_split_is_refused(tmp_path):
    both = manifest(tmp_path / "both.jsonl", ["train"])
    with pytest.raises(ConfigError, match="no line of it has the split 'heldout'"):
        heldout_scenes(DataConfig(train=both, heldout=both), 1, 0)


def test_a_manifest_of_its_own_needs_no_splits(tmp_path):
    other = manifest(tmp_path / "other.jsonl", ["train", "train"])
    assert len(heldout_scenes(DataConfig(heldout=other), 5, 0)) == 2


def test_the_worlds_scenes_do_not_overlap():
    train, heldout = train_scenes(DataConfig(), 0), heldout_scenes(DataConfig(), 64, 0)
    assert len(heldout) == 64
    assert not {scene.id for scene in train} & {scene.id for scene in heldout}
    assert not {scene.context for scene in train} & {scene.context for scene in heldout}


def test_the_datas_limits_hold_wherever_a_clip_of_it_is_read(tmp_path):
    ramp = np.arange(0, 256, 16, dtype=np.uint8)[:, None, None]
    write_clip(tmp_path / "clip.mp4", np.broadcast_to(ramp, (5, 16, 16, 3)), 8.0)
    row = {"context": "before", "video": "clip.mp4", "context_clip": "clip.mp4", "limits": "a column"}
    write_manifest(
        tmp_path / "all.jsonl", [{"id": split, "split": split, **row} for split in ("train", "heldout")]
    )
    where = str(tmp_path / "all.jsonl")

    def scenes(limits):
        data = DataConfig(train=where, heldout=where, limits=limits)
        return [*train_scenes(data, 0), *heldout_scenes(data, 1, 0)]

    unopened = object.__new__(Unified)  # clips are read before anything of the model is used
    unopened.config = Unified.Config()
    for scene in scenes(Limits(max_pixels=100)):
        assert scene.columns["limits"] == "a column"
        for read in (
            lambda s: true_clips(s, 1),
            _context_frames,
            lambda s: unopened.encode([s]),
            lambda s: first_frames([s], (16, 16)),
        ):
            with pytest.raises(
                ConfigError, match="clip.mp4: has frames of 16x16 pixels, more than max_pixels 100"
            ):
                read(scene)
    for scene in scenes(Limits()):
        found = true_clips(scene, 1)
        assert found is not None
        assert found.shape == (1, 5, 16, 16, 3)
        assert np.array_equal(first_frames([scene], (16, 16))[0], found[0, -1:])


def test_limits_are_settings_of_a_run():
    run = load("world", ["data.limits.max_seconds=5"])
    assert run.data.limits == Limits(max_seconds=5.0)
    assert suite.measured_by(run, suite.load("world")).data.limits == run.data.limits
    with pytest.raises(ConfigError, match="max_pixels must be positive; got 0"):
        load("world", ["data.limits.max_pixels=0"])
