"""``rlnsp curate`` whole: real mp4 files, a server that answers by what it sees, pairs to train on."""

import json
from collections import Counter
from pathlib import Path

import pytest

from rlnsp.cli import main
from rlnsp.manifest import read_clip, read_manifest
from tests.chat_server import ChatServer, speaking
from tests.pretrain.curate.models import speaker


def curate(videos: Path, output: Path, server: ChatServer, *more: str) -> int:
    retries = ["vlm.retries=0", "vlm.retry_wait_s=0"]
    arguments = ["--config", "world", "--output", str(output), "--url", server.url, *more, *retries]
    return main(["curate", str(videos), *arguments])


def write(colour: str, refused: int) -> str:
    """Green passes at once, blue when it was refused twice, red never."""
    if colour == "red":
        return f"Somewhere elsewhere, {refused}."
    if colour == "blue" and refused < 2:
        return f"It tells, {refused}, of a blue ground."
    return f"A bar waits over a {colour} ground."


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_pairs_of_all_that_can_be_used_and_a_reason_for_the_rest(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with speaking(speaker(write)) as server:
        assert curate(raw, tmp_path, server) == 0
    table = capsys.readouterr().out
    kept = {row["id"]: row for row in lines(tmp_path / "manifest.jsonl")}
    assert set(kept) == {
        *("short-middle-002-written", "sub/odd-000-written", "varies-000-written"),
        *("three-001-written", "three-002-written", "three-001-consecutive", "three-002-consecutive"),
    }
    assert {id: row["rewrites"] for id, row in kept.items() if row["pair"] == "written"} == {
        "short-middle-002-written": 2,
        "sub/odd-000-written": 0,
        "varies-000-written": 2,
        "three-001-written": 0,
        "three-002-written": 2,
    }
    assert kept["three-001-written"]["context"] == "A bar waits over a green ground."
    assert kept["three-001-written"]["caption"] == "A white bar moves over a green ground."
    assert kept["varies-000-written"]["caption"] == "A bar crosses a blue ground."  # as it came
    assert {id for id, row in kept.items() if row["split"] == "heldout"} == {"sub/odd-000-written"}  # it was
    follows = kept["three-002-consecutive"]
    assert follows["context"] == kept["three-001-written"]["caption"]
    assert follows["context_clip"] == kept["three-001-written"]["video"]
    assert follows["video"] == kept["three-002-written"]["video"] != follows["context_clip"]
    assert [kept[f"three-00{n}-written"]["start"] for n in (1, 2)] == pytest.approx([1.25, 2.5], abs=0.05)

    dropped = {(one["id"], one["stage"], one["reason"]) for one in lines(tmp_path / "dropped.jsonl")}
    assert dropped == {
        ("empty", "video", "broken"),
        ("sound", "video", "no pictures"),
        ("truncated", "video", "broken"),
        ("short-000", "scene", "too short"),
        ("short-middle-001", "scene", "too short"),
        ("short-middle-000-written", "written pair", "inconsistent"),
        ("three-000-written", "written pair", "inconsistent"),
    }
    (red,) = (one for one in lines(tmp_path / "dropped.jsonl") if one["id"] == "three-000-written")
    assert red["detail"] == "It is another place."
    assert red["context"] == "Somewhere elsewhere, 3."  # the last of four
    assert red["caption"] == "A white bar moves over a red ground."
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["videos"], report["unusable_videos"], report["scenes"], report["clips"]) == (8, 3, 9, 7)
    assert report["captions"] == {"made": 6, "given": 1}
    assert report["pairs"] == {"written": 5, "consecutive": 2}
    assert report["written_after_rewrites"] == {"0": 2, "2": 3}
    assert report["dropped"]["written pair: inconsistent"] == 2
    # Same captions are the same questions: three colours and the given caption.
    assert report["calls"] == {"in_all": server.requests, "this_run": server.requests}
    for figure in ("videos", "pairs kept, written", "dropped, scene: too short", "calls to servers"):
        assert figure in table

    # What it wrote is a manifest like any other, with clips of the size that was asked for.
    scenes = read_manifest(tmp_path / "manifest.jsonl")
    assert len(scenes) == 7
    for scene in scenes:
        assert scene.video is not None
        clip, fps = read_clip(scene.video)
        assert (clip.shape, fps) == ((9, 64, 64, 3), 8.0)
    means = {scene.id: read_clip(scene.video)[0].mean((0, 1, 2)) for scene in scenes if scene.video}
    assert means["three-001-written"].argmax() == 1
    assert means["three-002-written"].argmax() == 2


def test_a_refused_scene_is_written_anew_with_every_reason_so_far(raw: Path, tmp_path: Path) -> None:
    with speaking(speaker(write)) as server:
        assert curate(raw, tmp_path, server, "pairs=[written]") == 0
    asked = Counter(text for request in server.asked for text in texts(request))
    assert max(asked.values()) == 1  # the same captions, the same questions: each asked once
    red = [text for text in asked if "directly before it" in text and "red ground" in text]
    assert sorted(text.count("Refused:") for text in red) == [0, 1, 2, 3]
    longest = max(red, key=len)
    for number in range(3):
        assert f"Somewhere elsewhere, {number}.\n  Refused: inconsistent: It is another place." in longest


def test_captions_and_texts_may_come_from_two_models(raw: Path, tmp_path: Path) -> None:
    with speaking(speaker(write), model="seer") as vlm, speaking(speaker(write), model="writer") as llm:
        assert curate(raw, tmp_path, vlm, "--llm-url", llm.url, "llm.retries=0") == 0
    assert all(not texts(request) for request in vlm.asked)
    assert all(texts(request) for request in llm.asked)
    assert {request["model"] for request in llm.asked} == {"writer"}
    made_by = lines(tmp_path / "manifest.jsonl")[0]["made_by"]
    assert (made_by["vlm"], made_by["llm"]) == ("seer", "writer")


def texts(request: dict) -> list[str]:
    """What was asked without pictures."""
    content = request["messages"][0]["content"]
    return [part["text"] for part in content] if len(content) == 1 else []
