import json
from pathlib import Path
from typing import Any

import pytest

from policies.latents import Geometry
from pretrain.work import DataConfig, Work
from rlnsp.config import ConfigError

GEOMETRY = Geometry(num_frames=9, height=64, width=64, fps=8.0)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path / "output", DataConfig(num_train=2, num_heldout=1), GEOMETRY)


def fail(work: Work, settings: dict, *names: str) -> None:
    """A stage that writes some files and then fails."""

    def begin() -> None:
        with work.stage("vae", settings) as folder:
            for name in names:
                (folder / name).write_text("")
            raise KeyError

    with pytest.raises(KeyError):
        begin()


def test_a_stage_leaves_its_mark_and_takes_its_checkpoint_away(work: Work) -> None:
    settings = {"loop": {"steps": 2, "betas": (0.9, 0.99)}}
    with work.stage("vae", settings) as folder:
        (folder / "checkpoint.safetensors").write_text("")
        (folder / "checkpoint-2").mkdir()
        (folder / "metrics.jsonl").write_text("")
    assert work.done("vae", settings)
    assert {path.name for path in folder.iterdir()} == {"done.json", "metrics.jsonl"}


def test_a_stage_that_failed_leaves_no_mark_but_its_checkpoint(work: Work) -> None:
    fail(work, {}, "checkpoint.safetensors")
    assert not work.done("vae", {})
    assert (work.output / "vae" / "checkpoint.safetensors").exists()


def test_a_mark_of_other_settings_is_refused_by_name(work: Work) -> None:
    with work.stage("vae", {"vae": {"patch_size": 4, "kl_weight": 1e-5}}):
        pass
    with pytest.raises(ConfigError, match=r"vae: made with other settings \(vae.patch_size was 4, now 8\)"):
        work.done("vae", {"vae": {"patch_size": 8, "kl_weight": 1e-5}})


def test_a_stage_begun_with_other_settings_is_refused_only_if_there_is_something_to_go_on_with(
    work: Work,
) -> None:
    fail(work, {"seed": 1})
    fail(work, {"seed": 2}, "checkpoint-2")
    with pytest.raises(ConfigError, match="seed was 2, now 3"), work.stage("vae", {"seed": 3}):
        pass


def test_a_mark_put_there_by_hand_is_believed(work: Work) -> None:
    (work.output / "vae").mkdir(parents=True)
    (work.output / "vae" / "done.json").write_text("{}")
    assert work.done("vae", {"seed": 3})


def test_what_was_built_on_a_stage_made_anew_is_refused(work: Work) -> None:
    for stage in ("b", "c", "d"):
        (work.output / stage).mkdir(parents=True)
        (work.output / stage / "done.json").write_text(json.dumps({}))
    work.check_order(["b", "c", "d"])
    work.check_order(["a", "b"], independent=2)
    with pytest.raises(ConfigError, match="done, but a, which it builds on, is not"):
        work.check_order(["a", "b", "c"], independent=2)


def test_the_worlds_clips_are_those_that_were_asked_for(work: Work) -> None:
    assert [len(work.train.scenes), len(work.heldout.scenes)] == [2, 1]
    again = Work(work.output, DataConfig(num_train=3, num_heldout=1), GEOMETRY)
    with pytest.raises(ConfigError, match="num_train was 2, now 3"):
        _ = again.train


def test_nothing_is_written_for_a_manifest_that_does_not_fit(tmp_path: Path, work: Work) -> None:
    _ = work.train
    manifest = DataConfig(manifest=str(work.output / "data" / "manifest.jsonl"))
    taller = Geometry(num_frames=9, height=96, width=64, fps=8.0)
    other = Work(tmp_path / "other", manifest, taller)
    with (
        pytest.raises(ConfigError, match="this policy takes 9 frames of 96x64 at 8 fps"),
        other.stage("vae", {}),
    ):
        pass
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("clips", "threads"), [("memory", 0), ("stream", 3), ("precomputed", 3)])
def test_what_is_loaded_from_files_is_loaded_ahead(tmp_path: Path, clips: Any, threads: int) -> None:
    assert Work(tmp_path, DataConfig(clips=clips, workers=3), GEOMETRY).workers == threads


def test_a_world_without_clips_is_refused() -> None:
    with pytest.raises(ConfigError, match="data.num_heldout must be at least 1; got 0"):
        DataConfig(num_heldout=0)
