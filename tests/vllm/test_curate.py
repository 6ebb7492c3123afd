"""``rlnsp curate`` whole against a real vLLM server with a small model, killed on the way."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pretrain.curate.prompts import PACKAGED
from rewards.nsp_reward.prompts import PACKAGED as JUDGES
from rlnsp.manifest import read_manifest, write_clip
from rlnsp.world import FPS, Tracker, futures, scenes
from rlnsp.world.events import COLOURS
from tests.vllm.served import FRAMES_PER_SECOND, ROOT, Server

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]

VIDEOS = 12
RIGHT = 0.5
"""Share of the captions that name the very colours that the tracker sees; of other clips a small one does."""


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Clips of the world, a file that is none, and what this small model was taught to be asked."""
    (tmp_path / "raw").mkdir()
    for number, scene in enumerate(scenes("heldout", VIDEOS, 5)):
        write_clip(tmp_path / "raw" / f"{number:02d}.mp4", futures(scene.context, 1, 0)[0], FPS)
    (tmp_path / "raw" / "broken.mp4").write_bytes(b"no video")
    shutil.copytree(PACKAGED / "paper", tmp_path / "prompts")
    shutil.copy(JUDGES / "world" / "caption.txt", tmp_path / "prompts" / "caption.txt")
    shutil.copy(JUDGES / "world" / "judge.txt", tmp_path / "prompts" / "consistent.txt")
    return tmp_path / "raw"


def command(raw: Path, output: Path, server: Server) -> list[str]:
    settings = ["checks=[consistent]", "scenes.detector=none", f"frames.fps={FRAMES_PER_SECOND}"]
    settings += [f"prompts={raw.parent / 'prompts'}", "caption_tokens=64", "context_tokens=64"]
    flags = ["--config", "world", "--output", str(output), "--url", server.url, "--json"]
    return [sys.executable, "-m", "rlnsp", "curate", str(raw), *flags, *settings, "vlm.concurrency=4"]


def test_every_clip_is_captioned_and_every_pair_kept_or_dropped_with_a_reason(
    server: Server, raw: Path, tmp_path: Path
) -> None:
    """The model never learned to write a preceding scene: it is asked, checked and refused all the same."""
    output = tmp_path / "out"
    run = subprocess.Popen(command(raw, output, server), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while len(list((output / "videos").glob("*.json"))) < 2:
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    done = finished(raw, output, server)
    report = json.loads((output / "report.json").read_text())
    assert report["videos"] == VIDEOS + 1
    assert report["unusable_videos"] == 1
    assert report["captions"] == {"made": VIDEOS, "given": 0}
    kept, dropped = sum(report["pairs"].values()), sum(report["dropped"].values())
    assert kept + dropped == VIDEOS + 1
    assert done.returncode == (0 if kept else 1), done.stderr
    assert report["calls"]["in_all"] > report["calls"]["this_run"]
    if kept:
        assert len(read_manifest(output / "manifest.jsonl")) == kept

    calls = report["calls"]["in_all"]
    finished(raw, output, server)
    again = json.loads((output / "report.json").read_text())
    assert again["calls"] == {"in_all": calls, "this_run": 0}


def test_captions_name_the_colours_that_are_there(server: Server, raw: Path, tmp_path: Path) -> None:
    finished(raw, tmp_path / "out", server, "rewrites=0")
    names = ("dropped.jsonl", "manifest.jsonl")
    lines = [line for name in names for line in (tmp_path / "out" / name).read_text().splitlines()]
    captions = {row["id"]: row["caption"] for row in map(json.loads, lines) if "caption" in row}
    said = [colours_of(captions[f"{number:02d}-000-written"]) for number in range(VIDEOS)]
    seen = [
        colours_of(Tracker().caption(futures(scene.context, 1, 0))[0])
        for scene in scenes("heldout", VIDEOS, 5)
    ]
    right = sum(one == other for one, other in zip(said, seen, strict=True))
    of_the_next = sum(one == other for one, other in zip(said, seen[1:] + seen[:1], strict=True))
    assert right >= RIGHT * VIDEOS
    assert right >= 3 * of_the_next


def colours_of(text: str) -> set[str]:
    return COLOURS.keys() & set(re.findall("[a-z]+", text.lower()))


def finished(raw: Path, output: Path, server: Server, *more: str) -> subprocess.CompletedProcess[str]:
    argv = [*command(raw, output, server), *more]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
