"""A curation that is killed, refused or told otherwise: what is done is kept, nothing is asked twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.curate.prompts import PACKAGED, read_prompts
from rlnsp.cli import main
from rlnsp.settings import ConfigError
from tests.chat_server import ChatServer, speaking
from tests.judge_server import FAULTS, serving
from tests.pages import ROOT
from tests.pretrain.curate.models import speaker
from tests.pretrain.curate.test_curate import curate, write

RESULTS = ("manifest.jsonl", "dropped.jsonl")


def questions(server: ChatServer) -> list[str]:
    return [json.dumps(request, sort_keys=True) for request in server.asked]


def test_killed_and_run_again_asks_nothing_twice_and_makes_the_same(raw: Path, tmp_path: Path) -> None:
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    with speaking(speaker(write)) as server:
        assert curate(raw, straight, server, "--json") == 0
        whole = questions(server)

    killed: list[int] = []

    def dying(text: str, images: list[np.ndarray]) -> str:
        if len(server.asked) == 15 and not killed:
            killed.append(len(server.asked))
            os.kill(process.pid, signal.SIGKILL)  # of two questions under way at most one has its answer
        return speaker(write)(text, images)

    with speaking(dying) as server:
        command = [sys.executable, "-m", "rlnsp", "curate", str(raw), "--config", "world"]
        command += ["--output", str(cut), "--url", server.url, "vlm.concurrency=2", "--json"]
        for code in (-signal.SIGKILL, 0):
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            out, err = process.communicate(timeout=120)
            assert process.returncode == code, err
        asked = Counter(questions(server))
    assert killed == [15]
    assert set(asked) == set(whole)
    # Again only what was under way when the process died.
    assert asked.total() <= len(whole) + 2
    for name in RESULTS:
        assert (cut / name).read_bytes() == (straight / name).read_bytes()
    report = json.loads(out)
    assert report == json.loads((cut / "report.json").read_text())
    assert report["calls"]["in_all"] == len(whole) > report["calls"]["this_run"]
    assert report["pairs"] == json.loads((straight / "report.json").read_text())["pairs"]


def test_interrupted_it_says_how_to_go_on(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupting(text: str, images: list[np.ndarray]) -> str:
        if server.requests == 8:
            os.kill(os.getpid(), signal.SIGINT)
        return speaker(write)(text, images)

    with speaking(interrupting) as server:
        assert curate(raw, tmp_path / "out", server, "vlm.concurrency=1") == 130
        assert f"what is done is kept; go on by: rlnsp curate {raw}" in capsys.readouterr().err
        assert curate(raw, tmp_path / "out", server) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["calls"]["in_all"] - report["calls"]["this_run"] >= 7


def test_run_again_when_done_asks_nothing_and_opens_no_video(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(raw, videos)
    with speaking(speaker(write)) as server:
        assert curate(videos, tmp_path / "out", server) == 0
        before = server.requests
        monkeypatch.setattr("pretrain.curate.pipeline.find_scenes", None)
        assert curate(videos, tmp_path / "out", server) == 0
        assert server.requests == before
        # A video more: the rest is kept.
        monkeypatch.undo()
        shutil.copy(raw / "three.mp4", videos / "again.mp4")
        assert curate(videos, tmp_path / "out", server) == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert {row["source"] for row in rows} >= {"again", "three"}


def test_a_server_that_fails_stops_it_with_what_is_done_and_the_way_on(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def tired(text: str, images: list[np.ndarray]) -> str:
        if server.requests == 12:
            server.fault = "500"
        return speaker(write)(text, images)

    with speaking(tired) as server:
        assert curate(raw, tmp_path / "out", server, "vlm.concurrency=1") == 1
        said = capsys.readouterr().err
        assert "rlnsp: error: " in said
        assert "no answer (InternalServerError" in said
        assert f"go on by: rlnsp curate {raw} --config world --output {tmp_path}/out" in said
        assert not (tmp_path / "out" / "manifest.jsonl").exists()
        kept = server.requests - 1
        server.fault = None
        assert curate(raw, tmp_path / "out", server, "vlm.concurrency=4") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["calls"]["in_all"] - report["calls"]["this_run"] == kept == 12


class Refusing(ChatServer):
    """As a server does that finds a question too long."""

    def answer(self, request: dict[str, Any]) -> tuple[int, bytes]:
        status, body = super().answer(request)
        return FAULTS["400"] if b"TOO LONG" in body else (status, body)


def test_a_question_that_cannot_be_answered_costs_its_scene_alone(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def speak(text: str, images: list[np.ndarray]) -> str:
        said = speaker(write)(text, images)
        if images:
            return f"TOO LONG {said}" if "green" in said else said
        return " " if "blue ground" in text and "directly before it" in text else said

    server = Refusing(speak)
    with serving(server):
        assert curate(raw, tmp_path, server, "captions=made") == 1
    # Red is never kept either; and what has lost the scene between them does not follow.
    assert "no pair was kept; " in capsys.readouterr().err
    dropped = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    reasons = Counter((one["id"], one["stage"], one["reason"]) for one in dropped)
    for id in ("three-001", "sub/odd-000"):
        assert reasons[id, "caption", "refused by the server"] == 1
    for id in ("three-002-written", "varies-000-written"):
        assert reasons[id, "written pair", "nothing said"] == 1


def test_other_settings_prompts_or_models_are_refused_by_name(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(PACKAGED / "paper", mine)
    with speaking(speaker(write)) as server:
        assert curate(raw, tmp_path / "out", server, f"prompts={mine}") == 0
        kept = (tmp_path / "out" / "prompts" / "write.txt").read_text()
        assert kept == (mine / "write.txt").read_text()
        version = json.loads((tmp_path / "out" / "manifest.jsonl").read_text().splitlines()[0])["made_by"]
        assert len(version.pop("prompts")) == 16
        assert version == {"vlm": "model", "llm": "model"}
        capsys.readouterr()
        assert curate(raw, tmp_path / "out", server, f"prompts={mine}", "rewrites=1") == 2
        assert "rewrites was 3, now 1" in capsys.readouterr().err
        (mine / "write.txt").write_text(kept + "\nBe short.")
        assert curate(raw, tmp_path / "out", server, f"prompts={mine}") == 2
        assert "prompts was" in capsys.readouterr().err
    with speaking(speaker(write), model="another") as server:
        assert curate(raw, tmp_path / "out", server) == 2
        assert "vlm.model was model, now another" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rewrite", None, "rewrite.txt is not there; write it, as .*paper has it"),
        (
            "write",
            "Write what came before.",
            r"write.txt has no place \{caption\}; it must have: \{caption\}",
        ),
        ("caption", "Describe {video}.", r"caption.txt has a place \{video\}; it may have: none"),
        ("restates", "", "restates.txt is empty"),
    ],
)
def test_prompts_that_lack_something_are_refused(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    shutil.copytree(PACKAGED / "paper", tmp_path / "mine")
    path = tmp_path / "mine" / f"{name}.txt"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_prompts(str(tmp_path / "mine"))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "curate").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_shipped_config_loads_by_its_name(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curate", "raw", "--config", path.stem, "--dry-run"]) == 0
    assert "num_frames" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["checks=[]"], "checks must name consistent, restates or both"),
        (["pairs=[]"], "pairs must name written, consecutive or both"),
        (["clips.num_frames=10"], "clips.num_frames must be 8 k + 1 for the VAE; got 10"),
        (["clips.shapes=[[64, 60]]"], "must be multiples of 32 for the VAE; got [64, 60]"),
        (["prompts=papre"], "no folder 'papre'; did you mean 'paper'?"),
        (["limits.max_pixels=0"], "limits.max_pixels must be positive; got 0"),
        (["--url", "http://127.0.0.1:9/v1"], "vlm.base_urls: no server answers at http://127.0.0.1:9/v1"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    output = tmp_path / "out"
    assert main(["curate", str(raw), "--config", "world", "--output", str(output), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not output.exists()


def test_videos_that_cannot_be_meant_are_refused(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.jsonl").write_text('{"id": "a", "context": "no video"}\n')
    for videos, message in (
        (tmp_path / "nowhere", "no such manifest"),
        (tmp_path / "text.jsonl", "'a' has no video; name one"),
    ):
        assert main(["curate", str(videos), "--output", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    assert main(["curate", str(raw), "--output", str(raw / "out")]) == 2
    assert "is in the folder of the videos" in capsys.readouterr().err
    assert not (raw / "out").exists()
