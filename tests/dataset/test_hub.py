"""Data sets on a hub: a real client, in processes of its own, against a hub on this machine."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets.exceptions import DatasetGenerationError
from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

from rlnsp.cli import main
from rlnsp.config import ConfigError
from rlnsp.dataset import hub as hubs
from rlnsp.dataset.hub import HubDataset, parse, place_of
from tests.dataset.hub_server import Hub, serving
from tests.videos import RED, encode, moving

AT = "hf://datasets/lab/"
READ = """
import json, sys
from rlnsp.manifest import ManifestError, read_clip, read_manifest
for name in sys.argv[1:]:
    try:
        said = [(s.id, s.context, s.split, read_clip(s.video)[0].shape[0]) for s in read_manifest(name)]
    except ManifestError as error:
        said = str(error)
    print(json.dumps(said))
"""
"""Each scene's id, context, split and number of frames; or the error."""
TOKEN = "hf_of_the_user"


def parquet(path: Path, contexts: Sequence[str], videos: Sequence[Any]) -> bytes:
    rows = [{"context": context, "video": video} for context, video in zip(contexts, videos, strict=True)]
    table = datasets.Dataset.from_list(rows)
    if not isinstance(videos[0], str):
        table = table.cast_column("video", datasets.Video(decode=False))
    table.to_parquet(str(path))
    return path.read_bytes()


def repositories(folder: Path) -> dict[str, dict[str, dict[str, bytes]]]:
    data = encode(folder / "clip.mp4", moving(RED, 4)).read_bytes()
    clip = {"bytes": data, "path": None}

    def table(*contexts: str, video: Any = clip) -> bytes:
        return parquet(folder / "table.parquet", contexts, [video] * len(contexts))

    configs = [{"config_name": name, "data_files": f"{name}.parquet"} for name in ("long", "short")]
    card = f"---\nconfigs: {json.dumps(configs)}\n---\n".encode()
    outside = {"bytes": None, "path": str(folder / "clip.mp4")}
    return {
        "lab/pairs": {
            "main": {
                "README.md": b"# Pairs\n",
                "data/train-00000-of-00002.parquet": table("a", "b"),
                "data/train-00001-of-00002.parquet": table("c"),
                "data/validation-00000-of-00001.parquet": table("d"),
            },
            "v1": {"train.parquet": table("old")},
        },
        "lab/configs": {"main": {"README.md": card, "long.parquet": table("l"), "short.parquet": table("s")}},
        "lab/videos": {
            "main": {
                "train/x.mp4": data,
                "train/metadata.jsonl": json.dumps({"file_name": "x.mp4", "context": "beside"}).encode(),
            }
        },
        "lab/gated": {"main": {"train.parquet": table("g")}},
        "lab/closed": {"main": {"train.parquet": table("g")}},
        "lab/code": {"main": {"code.py": b"raise SystemExit('run')", "train.parquet": table("x")}},
        "lab/outside": {"main": {"train.parquet": table("x", video=outside)}},
        "lab/paths": {"main": {"train.parquet": table("x", video="clips/x.mp4")}},
    }


COMMIT = hashlib.sha1(b"lab/pairs v1").hexdigest()
NAMES = [
    *(
        "pairs",
        "pairs@v1",
        f"pairs@{COMMIT}",
        "configs?config=short",
        "videos",
        "configs",
        "configs?config=none",
    ),
    *("none", "pairs@none", "gated", "code", "outside", "paths"),
]


class Readers:
    """Processes that read by name, all with one cache."""

    def __init__(self, hub: Hub, home: Path) -> None:
        self.hub = hub
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        self.environment = inherited | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home)}

    def start(self, *names: str, **environment: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", READ, *(AT + name for name in names)]
        return subprocess.Popen(
            command,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )


def said_by(process: "subprocess.Popen[str]", names: Sequence[str]) -> dict[str, Any]:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return dict(zip(names, map(json.loads, out.splitlines()), strict=True))


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Readers]:
    with serving() as hub:
        hub.repositories = repositories(tmp_path_factory.mktemp("files"))
        hub.gated = {"lab/gated", "lab/closed"}
        yield Readers(hub, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def online(readers: Readers) -> list[dict[str, Any]]:
    """What two processes that start together read; the second one's user is logged in."""
    first, second = readers.start(*NAMES), readers.start("pairs", "closed", HF_TOKEN=TOKEN)
    try:
        return [said_by(first, NAMES), said_by(second, ["pairs", "closed"])]
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


def test_a_name_says_what_to_load() -> None:
    assert parse(f"{AT}a.b-c") == HubDataset(name="lab/a.b-c", revision=None, config=None)
    assert parse(f"{AT}a@refs/pr/1?config=x y") == HubDataset(
        name="lab/a", revision="refs/pr/1", config="x y"
    )
    assert place_of(f"{AT}a") == f"{AT}a"
    assert place_of("lab/a") == Path("lab/a")


@pytest.mark.parametrize(
    "name", ["hf://lab/a", "hf:lab/a", f"{AT}a/data", f"{AT}a?split=x", f"{AT}../a/b", "hf://datasets/a"]
)
def test_another_spelling_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="write hf://datasets/OWNER/NAME, and after it @REVISION"):
        parse(str(place_of(name)))


def test_the_tables_of_a_hub_are_scenes_and_their_splits_are_ours(online: list[dict[str, Any]]) -> None:
    expected = [["a", "train"], ["b", "train"], ["c", "train"], ["d", "heldout"]]
    scenes = [[f"{n:08d}", context, split, 4] for n, (context, split) in enumerate(expected)]
    assert online[0]["pairs"] == scenes


def test_of_two_processes_one_downloads(online: list[dict[str, Any]], readers: Readers) -> None:
    assert online[1]["pairs"] == online[0]["pairs"]
    fetched = [path for path in readers.hub.downloads(".parquet") if path.startswith("/datasets/lab/pairs/")]
    main = [path for path in fetched if "/data/" in path]
    assert len(main) == len(set(main)) == 3


def test_a_revision_and_a_config_travel_untouched(online: list[dict[str, Any]], readers: Readers) -> None:
    assert online[0]["pairs@v1"] == [["00000000", "old", "train", 4]]
    assert online[0][f"pairs@{COMMIT}"] == online[0]["pairs@v1"]
    assert online[0]["configs?config=short"] == [["00000000", "s", "train", 4]]
    assert ("HEAD", "/datasets/lab/pairs/resolve/v1/README.md", "") in readers.hub.asked
    assert any("short.parquet" in path for path in readers.hub.downloads(".parquet"))
    assert not any("long.parquet" in path for path in readers.hub.downloads(".parquet"))


def test_videos_beside_a_table_are_fetched_with_it(online: list[dict[str, Any]]) -> None:
    assert online[0]["videos"] == [["00000000", "beside", "train", 4]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("configs", "name one of its configs by ?config=NAME if it has several"),
        ("configs?config=none", "BuilderConfig 'none' not found. Available: ['long', 'short']"),
        ("none", "doesn't exist on the Hub or cannot be accessed. Check the name and the revision"),
        ("pairs@none", "Revision 'none' doesn't exist for dataset 'lab/pairs' on the Hub. Check"),
        ("gated", "is a gated dataset on the Hub. You must be authenticated to access it. Check"),
        ("code", "needs code of its own to be read"),
        ("outside", "is a file that is not in the table; download the repository"),
        ("paths", "video 'clips/x.mp4' is a file that is not in the table; download the repository"),
    ],
)
def test_what_cannot_be_had_says_what_to_do(online: list[dict[str, Any]], name: str, message: str) -> None:
    said = online[0][name]
    assert isinstance(said, str)
    assert said.startswith(AT + name)
    assert message in said
    assert "\n" not in said


def test_a_token_opens_what_is_gated(online: list[dict[str, Any]], readers: Readers) -> None:
    assert online[1]["closed"] == [["00000000", "g", "train", 4]]
    tokens = {token for _, path, token in readers.hub.asked if path.startswith("/datasets/lab/closed/")}
    assert tokens == {f"Bearer {TOKEN}"}


def test_offline_the_cache_serves_what_it_has_of_that_revision(
    online: list[dict[str, Any]], readers: Readers
) -> None:
    names = ["pairs@v1", "configs?config=short", "videos", "pairs", "none"]
    before = len(readers.hub.asked)
    alone = said_by(readers.start(*names, HF_HUB_OFFLINE="1"), names)
    assert len(readers.hub.asked) == before
    for name in names[:3]:
        assert alone[name] == online[0][name]
    assert "this revision cannot be fetched, and what the cache has is commit" in alone["pairs"]
    assert "cannot be fetched (Couldn't reach" in alone["none"]
    assert "HF_ENDPOINT, or bring a cache that has it (HF_HOME)" in alone["none"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (HTTPError("timed\nout"), r"cannot be fetched \(timed out\); check the connection"),
        (RuntimeError("Dataset scripts"), r"`datasets` cannot read it \(Dataset scripts\)"),
        (DatasetGenerationError(""), r"`datasets` cannot read it \(DatasetGenerationError\)"),
    ],
)
def test_whatever_its_client_answers_is_one_line(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str, **how: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    hubs.fetch.cache_clear()
    with pytest.raises(ConfigError, match=f"^{AT}a: {message}"):
        hubs.fetch(f"{AT}a")


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--reward", "motion", "data.train=NAME"],
        ["train", "--reward", "motion", "data.heldout=NAME"],
        ["sft", "--config", "world", "--policy", "world", "data.manifest=NAME", "data.clips=stream"],
        ["sft", "--config", "world", "--policy", "world", "data.manifest=NAME"],
        ["sft", "--config", "world", "--policy", "world", "sft.manifest=NAME", "data.clips=stream"],
        ["curate", "NAME"],
        ["reward", "test", "motion", "--manifest", "NAME"],
    ],
)
def test_every_command_takes_the_name_as_it_is(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def unreachable(path: str, **how: Any) -> None:
        asked.append((path, how))
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    hubs.fetch.cache_clear()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf:" / "datasets" / "lab" / "a@v2").mkdir(parents=True)
    output = [] if words[0] == "reward" else ["--output", "out"]
    assert main([*(word.replace("NAME", f"{AT}a@v2?config=c") for word in words), *output]) == 2
    assert asked == [(f"{AT}a", {"name": "c", "revision": "v2", "keep_in_memory": False})]
    errors = capsys.readouterr().err.strip().splitlines()
    assert f"{AT}a@v2?config=c: cannot be fetched (no route); check the connection" in errors[-1]
