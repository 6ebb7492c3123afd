"""Still images as clips of one frame: what is made of them, and what is refused."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow.parquet import write_table

from pretrain.batches import ClipBatches
from pretrain.pictures import sample_picture
from pretrain.skipped import Skipped
from pretrain.sources import Videos, load_clip
from rlnsp.config import ConfigError
from rlnsp.dataset.safety import Limits
from rlnsp.dataset.video import UnusableVideo
from rlnsp.manifest import open_manifest, write_manifest
from tests.policies.tiny import GEOMETRY, make_model
from tests.videos import GREEN, RED, encode, moving

SIZE = GEOMETRY.height, GEOMETRY.width


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def saved(path: Path, pixels: np.ndarray, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)
    return path


@pytest.mark.parametrize("suffix", [".png", ".webp", ".PNG"])
def test_a_picture_of_the_right_size_is_what_it_is(tmp_path: Path, suffix: str) -> None:
    pixels = noise(*SIZE)
    path = saved(tmp_path / f"a{suffix}", pixels, **({"lossless": True} if suffix == ".webp" else {}))
    assert np.array_equal(sample_picture(path, [SIZE], Limits()), pixels[None])


def test_others_go_to_the_nearest_size_scaled_to_cover_and_cropped_around_the_middle(tmp_path: Path) -> None:
    pixels = np.zeros((64, 200, 3), np.uint8)
    pixels[:, 36:164] = 200  # the middle 128 of 200 columns are what 32 x 64 shows of it
    found = sample_picture(saved(tmp_path / "a.png", pixels), [(64, 32), (32, 64)], Limits())
    assert found.shape == (1, 32, 64, 3)
    assert found[:, :, 2:-2].min() == 200
    tall = sample_picture(saved(tmp_path / "b.png", noise(90, 40)), [(64, 32), (32, 64)], Limits())
    assert tall.shape == (1, 64, 32, 3)


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # as cameras write it: to be turned by a quarter to the right
    pixels = np.zeros((64, 32, 3), np.uint8)
    pixels[:32] = 255
    path = saved(tmp_path / "a.jpg", pixels, exif=exif, quality=95)
    found = sample_picture(path, [(64, 32), (32, 64)], Limits())
    assert found.shape == (1, 32, 64, 3)
    assert found[:, :, :28].max() < 30
    assert found[:, :, 36:].min() > 225


def test_what_is_transparent_is_white_and_grey_is_grey(tmp_path: Path) -> None:
    pixels = noise(*SIZE, 4)
    pixels[..., 3] = 255
    pixels[:16, :, 3] = 0
    found = sample_picture(saved(tmp_path / "a.png", pixels), [SIZE], Limits())[0]
    assert (found[:16] == 255).all()
    assert np.array_equal(found[16:], pixels[16:, :, :3])
    grey = noise(*SIZE)[..., 0]
    found = sample_picture(saved(tmp_path / "b.png", grey), [SIZE], Limits())[0]
    assert np.array_equal(found, np.repeat(grey[..., None], 3, 2))


def test_what_cannot_be_used_says_why(tmp_path: Path) -> None:
    good = saved(tmp_path / "good.png", noise(40, 60))

    def refused(path: Path, limits: Limits, kind: str, why: str) -> None:
        with pytest.raises(UnusableVideo, match=why) as error:
            sample_picture(path, [SIZE], limits)
        assert error.value.kind == kind

    (tmp_path / "text.png").write_text("no picture")
    refused(tmp_path / "text.png", Limits(), "broken", "cannot be decoded")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:2000])
    refused(tmp_path / "cut.png", Limits(), "broken", "cannot be decoded")
    Image.fromarray(noise(8, 8)).save(tmp_path / "gif.png", format="GIF")
    refused(tmp_path / "gif.png", Limits(), "broken", "cannot be decoded")
    deep = saved(tmp_path / "deep.png", np.zeros((8, 8), np.uint16))
    refused(deep, Limits(), "broken", "not of 8 bits a channel")
    refused(tmp_path / "gone.png", Limits(), "missing", "is not there")
    refused(good, Limits(max_pixels=2000), "too large", "has 40x60 pixels, more than max_pixels 2000")
    refused(good, Limits(max_file_mb=1e-4), "too large", "more than max_file_mb")


def test_a_picture_too_large_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.png", noise(40, 60))
    monkeypatch.setattr(Image.Image, "load", None)
    with pytest.raises(UnusableVideo, match="more than max_pixels"):
        sample_picture(path, [SIZE], Limits(max_pixels=100))


def folder_of_both(folder: Path) -> Path:
    encode(folder / "clip.mp4", moving(RED, 20, *SIZE), fps=8.0)
    saved(folder / "clip.jpg", noise(*SIZE))  # its thumbnail
    saved(folder / "sub" / "still.png", moving(GREEN, 1, *SIZE)[0])
    for name in ("clip", "sub/still"):
        (folder / f"{name}.txt").write_text(f"It is {name}.")
    return folder


def in_a_shard(folder: Path) -> Path:
    folder.mkdir()
    with tarfile.open(folder / "000.tar", "w") as tar:
        for path in sorted(folder_of_both(folder.parent / "files").rglob("*.*")):
            tar.add(path, path.name)
    return folder


def in_a_manifest(folder: Path) -> Path:
    folder_of_both(folder)
    rows = [
        {"id": name, "video": name, "caption": f"It is {name}.", "split": "train"}
        for name in ("clip.mp4", "sub/still.png")
    ]
    write_manifest(folder / "manifest.jsonl", rows)
    return folder


@pytest.mark.parametrize("form", [folder_of_both, in_a_shard, in_a_manifest])
def test_a_stage_sees_pictures_and_videos_of_every_form_each_in_batches_of_its_own(
    tmp_path: Path, form: Any
) -> None:
    model = make_model()
    scenes = open_manifest(form(tmp_path / "data"), need_context=False, pictures=True)
    assert sorted((scene.video or Path()).suffix for scene in scenes) == [".mp4", ".png"]
    source = Videos(scenes, model, [SIZE], Limits(), "caption")
    made = ClipBatches(source, 2, 0, Skipped(tmp_path / "skipped.jsonl"))
    found = {batch.shape: batch for batch in (made.next(step) for step in range(2))}
    assert set(found) == {(5, *SIZE), (1, *SIZE)}
    tokens = {shape: batch.latents.shape[1] for shape, batch in found.items() if batch.latents is not None}
    assert tokens == {(5, *SIZE): 2 * 4 * 8, (1, *SIZE): 4 * 8}
    assert {"still" in scene.id for scene in found[1, *SIZE].scenes} == {True}


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table: a captioned picture; a video with its thumbnail; a picture that lies beside the table."""
    import datasets

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = folder_of_both(tmp_path / "data")
    image, video = (
        {"bytes": (folder / name).read_bytes(), "path": None} for name in ("sub/still.png", "clip.mp4")
    )
    rows = [
        {"id": "still", "caption": "It is still.", "image": image, "video": None},
        {"id": "clip", "caption": "It is clip.", "image": image, "video": video},
        {"id": "beside", "caption": "It is beside.", "image": {"path": "sub/still.png"}, "video": None},
    ]
    table = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    # As they are: datasets' own writer would put the picture that lies beside the table into it.
    write_table(table.cast_column("video", datasets.Video()).data.table, folder / "pairs.parquet")
    return folder / "pairs.parquet"


def test_a_picture_in_a_table_is_what_it_is_in_a_folder(pairs: Path, tmp_path: Path) -> None:
    scenes = {scene.id: scene for scene in open_manifest(pairs, need_context=False, pictures=True)}
    expected = sample_picture(tmp_path / "data" / "sub" / "still.png", [SIZE], Limits())
    model = make_model()
    for name in ("still", "beside"):
        assert scenes[name].columns == {}
        found = load_clip(scenes[name], model.geometry, [SIZE], Limits())
        assert np.array_equal(found, expected)
    assert load_clip(scenes["clip"], model.geometry, [SIZE], Limits()).shape == (5, *SIZE, 3)
    for limits in (Limits(max_pixels=100), Limits(max_file_mb=1e-5)):
        with pytest.raises(UnusableVideo, match=r"more than max_") as error:
            load_clip(scenes["still"], model.geometry, [SIZE], limits)
        assert error.value.kind == "too large"


def test_commands_that_want_videos_look_past_pictures_in_tables(pairs: Path) -> None:
    scenes = {scene.id: scene for scene in open_manifest(pairs, need_context=False)}
    assert scenes["still"].video is None
    assert scenes["beside"].video is None
    assert scenes["clip"].video is not None
    assert all(scene.columns == {} for scene in scenes.values())


def test_a_picture_is_encoded_as_the_first_frame_of_a_clip_is() -> None:
    model = make_model()
    clip = moving(RED, GEOMETRY.num_frames, *SIZE)
    whole, first = (model.encode_frames(clip[None, :frames]) for frames in (GEOMETRY.num_frames, 1))
    torch.testing.assert_close(first, whole[:, : first.shape[1]])


def test_commands_that_want_videos_look_past_pictures(tmp_path: Path) -> None:
    folder = folder_of_both(tmp_path / "data")
    assert [scene.id for scene in open_manifest(folder, need_context=False)] == ["clip"]
    saved(tmp_path / "stills" / "a.png", noise(8, 8))
    with pytest.raises(ConfigError, match="has neither manifest.jsonl, nor videos"):
        open_manifest(tmp_path / "stills", need_context=False)


def test_a_picture_in_a_shard_is_read_from_its_bytes(tmp_path: Path) -> None:
    """A picture in a shard is read from the shard, not from a file beside it."""
    pixels = noise(*SIZE)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    with tarfile.open(tmp_path / "000.tar", "w") as tar:
        for name, content in (
            ("a.png", data.getvalue()),
            ("a.json", json.dumps({"caption": "It."}).encode()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (scene,) = open_manifest(tmp_path / "000.tar", need_context=False, pictures=True)
    assert scene.video is not None
    assert np.array_equal(sample_picture(scene.video, [SIZE], Limits()), pixels[None])
