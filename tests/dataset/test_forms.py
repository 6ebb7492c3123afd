"""One data set in every form: a manifest, a folder, shards that webdataset wrote, tables of ``datasets``."""

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from webdataset.writer import ShardWriter

from rlnsp.dataset.safety import Limits
from rlnsp.dataset.video import size_of
from rlnsp.manifest import ManifestError, open_manifest, read_clip, read_manifest, write_manifest
from rlnsp.types import Scene
from tests.videos import BLUE, GREEN, RED, encode, moving

ROWS: list[dict[str, Any]] = [
    {"id": "a/one", "context": "Before one.", "caption": "One.", "split": "train", "source": "me", "n": 1},
    {"id": "a/two", "context": "Before two.", "caption": "Two.", "split": "heldout", "source": "me", "n": 2},
    {
        "id": "three",
        "context": "Before three.",
        "caption": "Three.",
        "split": "train",
        "source": "me",
        "n": 3,
    },
]
NAMES = ("a/one", "a/two", "three")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    colours = zip(NAMES, (RED, GREEN, BLUE), strict=True)
    return {name: encode(folder / f"{name}.mp4", moving(colour, 4)) for name, colour in colours}


def as_manifest(folder: Path, clips: dict[str, Path]) -> Path:
    lay_down(folder, clips)
    rows = [row | {"video": f"{name}.mp4"} for name, row in zip(NAMES, ROWS, strict=True)]
    write_manifest(folder / "manifest.jsonl", rows)
    return folder / "manifest.jsonl"


def as_folder_with_manifest(folder: Path, clips: dict[str, Path]) -> Path:
    return as_manifest(folder, clips).parent


def lay_down(folder: Path, clips: dict[str, Path]) -> None:
    for name, path in clips.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.mp4").write_bytes(path.read_bytes())


def as_folder(folder: Path, clips: dict[str, Path]) -> Path:
    lay_down(folder, clips)
    for name, row in zip(NAMES, ROWS, strict=True):
        said = {key: value for key, value in row.items() if key != "caption"}
        (folder / f"{name}.json").write_text(json.dumps(said))
        (folder / f"{name}.txt").write_text(row["caption"] + "\n")
    (folder / "README").write_text("not a clip")
    return folder


def as_shards(folder: Path, clips: dict[str, Path]) -> Path:
    with ShardWriter(str(folder / "%03d.tar"), maxcount=2, verbose=0) as writer:
        for name, row in zip(NAMES, ROWS, strict=True):
            writer.write({"__key__": name, "mp4": clips[name].read_bytes(), "json": row})
    assert len(list(folder.glob("*.tar"))) == 2
    return folder


def as_manifest_of_shards(folder: Path, clips: dict[str, Path]) -> Path:
    (folder / "shards").mkdir()
    as_shards(folder / "shards", clips)
    videos = ("shards/000.tar/a/one.mp4", "shards/000.tar/a/two.mp4", "shards/001.tar/three.mp4")
    rows = [row | {"video": video} for video, row in zip(videos, ROWS, strict=True)]
    write_manifest(folder / "manifest.jsonl", rows)
    return folder


def table(clips: dict[str, Path]) -> Any:
    import datasets

    videos = [{"bytes": clips[name].read_bytes(), "path": None} for name in NAMES]
    rows = [row | {"video": video} for video, row in zip(videos, ROWS, strict=True)]
    made = datasets.Dataset.from_list(rows)
    return made.cast_column("video", datasets.Video(decode=False))


def as_saved(folder: Path, clips: dict[str, Path]) -> Path:
    table(clips).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def as_saved_splits(folder: Path, clips: dict[str, Path]) -> Path:
    import datasets

    whole = table(clips).remove_columns("split")
    parts = {"train": whole.select([0, 2]), "validation": whole.select([1])}
    datasets.DatasetDict(**parts).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def as_parquet(folder: Path, clips: dict[str, Path]) -> Path:
    whole = table(clips).remove_columns("split")
    whole.select([0, 2]).to_parquet(str(folder / "train-00000-of-00001.parquet"))
    whole.select([1]).to_parquet(str(folder / "test-00000-of-00001.parquet"))
    return folder


def as_downloaded(folder: Path, clips: dict[str, Path]) -> Path:
    """A repository of a hub, whole."""
    whole = table(clips).remove_columns("split")
    (folder / "data").mkdir()
    for row, name in enumerate(("train-00000-of-00002", "validation-00000-of-00001", "train-00001-of-00002")):
        whole.select([row]).to_parquet(str(folder / "data" / f"{name}.parquet"))
    (folder / "README.md").write_text("# Pairs")
    (folder / "figure.png").write_bytes(b"of its page")
    return folder


def as_paths_in_json(folder: Path, clips: dict[str, Path]) -> Path:
    lay_down(folder, clips)
    rows = [row | {"video": f"{name}.mp4"} for name, row in zip(NAMES, ROWS, strict=True)]
    (folder / "data.json").write_text(json.dumps(rows))
    return folder / "data.json"


FORMS = [
    *(as_manifest, as_folder_with_manifest, as_folder, as_shards, as_manifest_of_shards),
    *(as_saved, as_saved_splits, as_parquet, as_downloaded, as_paths_in_json),
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("lay_out", FORMS)
def test_every_form_reads_as_the_same_scenes(lay_out: Any, clips: dict[str, Path], tmp_path: Path) -> None:
    path = lay_out(tmp_path, clips)
    scenes = {scene.id: scene for scene in read_manifest(path)}
    assert set(scenes) == {row["id"] for row in ROWS}
    for name, row in zip(NAMES, ROWS, strict=True):
        scene = scenes[row["id"]]
        assert (scene.context, scene.caption, scene.split) == (row["context"], row["caption"], row["split"])
        assert scene.columns == {"source": "me", "n": row["n"]}
        assert scene.video is not None
        frames, fps = read_clip(scene.video)
        expected, rate = read_clip(clips[name])
        assert np.array_equal(frames, expected)
        assert fps == rate
    assert [scene.id for scene in read_manifest(path, "heldout")] == ["a/two"]
    lazily = open_manifest(path, "train", pictures=True)
    assert {scene.id for scene in lazily} == {"a/one", "three"}
    assert len(lazily) == 2
    assert lazily[1] == scenes[lazily[1].id]


def test_what_says_nothing_of_itself_gets_its_name_as_id(clips: dict[str, Path], tmp_path: Path) -> None:
    lay_down(tmp_path / "folder", clips)
    folder = read_manifest(tmp_path / "folder", need_context=False)
    assert [(scene.id, scene.context, scene.split) for scene in folder] == [
        (name, "", "train") for name in NAMES
    ]
    with ShardWriter(str(tmp_path / "%02d.tar"), maxcount=9, verbose=0) as writer:
        video = clips["three"].read_bytes()
        writer.write({"__key__": "k", "mp4": video, "from.behind.mp4": video, "txt": "Three."})
    (scene,) = read_manifest(tmp_path / "00.tar", need_context=False)
    assert (scene.id, scene.caption) == ("00/k", "Three.")
    with pytest.raises(ManifestError, match=r"00.tar/k: 'context' must be a non-empty string; got None"):
        read_manifest(tmp_path / "00.tar")


def test_a_name_in_a_folder_may_have_dots(clips: dict[str, Path], tmp_path: Path) -> None:
    """As people's own files do; in shards a name ends at its first dot, as WebDataset has it."""
    for name in ("film.2019.v1.mp4", "film.2019.v2.MP4", "._film.2019.v1.mp4"):
        (tmp_path / name).write_bytes(clips["three"].read_bytes())
    (tmp_path / "film.2019.v1.txt").write_text("The first.")
    (tmp_path / "film.2019.v1.context.txt").write_text("Before the first.")
    found = {scene.id: scene for scene in read_manifest(tmp_path, need_context=False)}
    assert set(found) == {"film.2019.v1", "film.2019.v2"}
    first, second = found["film.2019.v1"], found["film.2019.v2"]
    assert (first.caption, first.context) == ("The first.", "Before the first.")
    assert second.caption is None
    assert second.video == (tmp_path / "film.2019.v2.MP4").resolve()


def test_a_shard_of_a_whole_folder_is_read(clips: dict[str, Path], tmp_path: Path) -> None:
    """``tar -cf 00.tar -C folder .`` writes ``./`` before each name."""
    with tarfile.open(tmp_path / "00.tar", "w") as tar:
        tar.add(clips["a/one"], "./a/one.mp4")
    (scene,) = read_manifest(tmp_path / "00.tar", need_context=False)
    assert scene.id == "00/a/one"
    assert scene.video is not None
    assert read_clip(scene.video)[0].shape == (4, 72, 96, 3)


def test_rows_of_several_tables_have_ids_of_their_own(clips: dict[str, Path], tmp_path: Path) -> None:
    import datasets

    whole = table(clips).remove_columns(["split", "id"])
    parts = {"train": whole.select([0, 2]), "test": whole.select([1])}
    datasets.DatasetDict(**parts).save_to_disk(str(tmp_path / "saved"))
    found = {scene.id: scene.caption for scene in read_manifest(tmp_path / "saved")}
    assert found == {"00000000": "One.", "00000001": "Three.", "00000002": "Two."}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00001", "train"),
        ("test", "heldout"),
        ("dev_1", "heldout"),
        ("my.Validation.part", "heldout"),
        ("latest", "train"),
        ("0000", "train"),
    ],
)
def test_a_word_of_a_tables_name_is_its_split(
    clips: dict[str, Path], tmp_path: Path, name: str, split: str
) -> None:
    table(clips).remove_columns("split").to_parquet(str(tmp_path / f"{name}.parquet"))
    assert {scene.split for scene in read_manifest(tmp_path)} == {split}


def test_a_folder_of_videos_is_one_whatever_tables_its_folder_data_has(
    clips: dict[str, Path], tmp_path: Path
) -> None:
    lay_down(tmp_path / "data", clips)
    table(clips).to_parquet(str(tmp_path / "data" / "index.parquet"))
    found = read_manifest(tmp_path, need_context=False)
    assert [scene.id for scene in found] == [f"data/{name}" for name in NAMES]


def test_a_table_may_not_name_a_file_outside_its_folder(clips: dict[str, Path], tmp_path: Path) -> None:
    """Nor may one that says that ``datasets`` fetched it: what it fetched lies in its own cache."""
    import datasets.config

    cached = Path(datasets.config.HF_DATASETS_CACHE) / "of another.mp4"
    cached.write_bytes(clips["three"].read_bytes())
    video = {"bytes": None, "path": str(cached)}
    made = datasets.Dataset.from_list([{"context": "before", "video": video}])
    made.to_parquet(str(tmp_path / "a.parquet"))
    with pytest.raises(ManifestError, match=r"a.parquet, row 0: video '.*' leaves the manifest's folder"):
        read_manifest(tmp_path)
    made.save_to_disk(str(tmp_path / "saved"))
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    write_manifest(
        tmp_path / "m.jsonl", [{"id": "x", "context": "c", "video": f"saved/{arrow.name}/@video/0"}]
    )
    with pytest.raises(ManifestError, match="@video/0' is not there"):
        read_manifest(tmp_path / "m.jsonl")


def test_videos_in_a_table_are_as_large_as_their_files_and_bounded(
    clips: dict[str, Path], tmp_path: Path
) -> None:
    scene = next(one for one in read_manifest(as_parquet(tmp_path, clips)) if one.id == "three")
    assert scene.video is not None
    assert size_of(scene.video) == clips["three"].stat().st_size
    with pytest.raises(ManifestError, match="more than max_file_mb 1e-05"):
        read_clip(scene.video, limits=Limits(max_file_mb=1e-5))


def test_a_row_beside_a_video_cannot_name_another(clips: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    lay_down(folder, clips)
    encode(tmp_path / "secret.mp4", moving(RED, 4))
    (folder / "three.json").write_text(json.dumps({"video": "../secret.mp4", "context_clip": "/etc/passwd"}))
    scene = {scene.id: scene for scene in read_manifest(folder, need_context=False)}["three"]
    assert scene.video == (folder / "three.mp4").resolve()
    assert scene.context_clip is None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.mp4": b"", "b.tar": b""}, "has tar shards and videos; put them into folders of their own"),
        ({"a.png": b""}, "has neither manifest.jsonl, nor videos"),
        ({"a.mp4": b"", "a.json": b"{"}, r"a.json: not valid JSON \(.*\); write one object, or drop"),
        ({"a.mp4": b"", "a.json": b"[]"}, "a.json: must be a JSON object; got list"),
        ({"a.mp4": b"", "a.txt": b"\xff\xfe"}, "a.txt: not UTF-8 text"),
        ({"a.mp4": b"", "a.txt": b"x" * 1_000_001}, "a.txt: has more than 1000000 bytes; shorten it"),
        ({"a.mp4": b"", "a.mkv": b""}, "a.mkv and a.mp4 are two videos of one name; rename one"),
        ({"a.mp4": b"", "a.json": b"[" * 100_000}, "a.json: not JSON that can be read"),
        ({"a.mp4": b"", "a.json": b'{"n": ' + b"9" * 5000 + b"}"}, "a.json: not JSON that can be read"),
        ({"a.mp4": b"", "a.json": rb'{"n": "\ud800"}'}, "'n' is not text that can be written as UTF-8"),
        ({"a.parquet": b"not a table"}, "a.parquet: not a data set that `datasets` can read"),
        ({"a.tar": b"\x1f\x8b" + b"x" * 600}, "a.tar: not a plain tar file"),
    ],
)
def test_folders_that_cannot_be_used_are_refused_in_one_line(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ManifestError, match=message):
        read_manifest(tmp_path, need_context=False)


def test_a_file_whose_name_is_not_utf_8_is_refused(clips: dict[str, Path], tmp_path: Path) -> None:
    """No list or manifest could name it."""
    (tmp_path / os.fsdecode(b"\xff.mp4")).write_bytes(clips["three"].read_bytes())
    with pytest.raises(
        ManifestError, match=r"'id' is not text that can be .*; got '\\udcff': rename the file"
    ):
        read_manifest(tmp_path, need_context=False)


def test_scenes_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    """Kept of a row are the number of its line and its place in the file."""
    path = tmp_path / "manifest.jsonl"
    write_manifest(path, ({"id": str(n), "context": f"Context {n}." + "x" * 100} for n in range(3000)))
    scenes = open_manifest(path)
    text = path.read_text()
    assert scenes[2999].context.startswith("Context 2999.")
    path.write_text(text.replace("Context 1500.", "Changed 1500."))
    assert scenes[1500].context.startswith("Changed 1500.")
    assert isinstance(scenes[0], Scene)
    with pytest.raises(IndexError):
        scenes[3000]


def test_a_compressed_shard_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.add(tmp_path / "a.txt", "a.txt")
    with pytest.raises(ManifestError, match="not a plain tar file .*; make it anew, uncompressed"):
        read_manifest(tmp_path / "a.tar")
