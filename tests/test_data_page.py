"""Every command of docs/data.md, in its order, at small size: raw videos to a policy trained on them."""

import json
from pathlib import Path

import pytest
import torch

from rlnsp.cli import main
from tests import pages
from tests.chat_server import speaking
from tests.pretrain.curate.models import speaker
from tests.videos import audio_only, raw_videos

URL = "http://127.0.0.1:8000/v1"
LOOP = ["sft.loop.steps=2", "sft.loop.batch_size=2", "sft.loop.evaluate_every=2", "threads=1"]
SMALL = {
    "curate": ["vlm.retries=0"],
    "curate paper": ["clips.num_frames=17", "clips.height=96", "clips.width=160", "clips.shapes=[]"],
    "sft": [*LOOP, "data.workers=1"],
    "train": [
        *("trainer.num_iterations=1", "trainer.scenes_per_iteration=2", "trainer.group_size=2"),
        *("trainer.report=false", "evaluation.num_scenes=2", "evaluation.num_seeds=1", "sampler.num_steps=4"),
    ],
}
"""What makes a command of the page take seconds."""


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    audio_only(raw_videos(tmp_path / "raw") / "sound.mp4")
    return tmp_path / "raw"


def test_every_command_runs_after_the_one_before(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = []
    with speaking(speaker(lambda colour, refused: f"A bar waits over a {colour} ground.")) as server:
        for _, name, *words in map(pages.words, pages.commands(pages.ROOT / "docs" / "data.md")):
            if name == "judge":  # tests/vllm starts it
                continue
            given = [server.url if word == URL else word for word in words]
            paper = name == "curate" and "--config" not in words
            assert main([name, *given, *SMALL[name], *(SMALL["curate paper"] if paper else [])]) == 0, (
                capsys.readouterr().err
            )
            ran.append(name)
    torch.set_flush_denormal(False)
    assert ran == ["curate", "curate", "sft", "train", "sft"]
    here = raw.parent
    large = json.loads((here / "pairs" / "report.json").read_text())
    assert large["pairs"] == {"written": 5, "consecutive": 2}
    small = json.loads((here / "small" / "report.json").read_text())
    assert small["pairs"] == {"written": 5, "consecutive": 2}
    assert small["unusable_videos"] == 2
    assert json.loads((here / "runs" / "rl" / "summary.json").read_text())["status"] == "done"
    rows = [
        [
            json.loads(line)
            for line in (here / "runs" / name / "sft" / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("sft", "shards")
    ]
    for one, other in zip(*rows, strict=True):
        assert (one["loss"], one["heldout_loss"]) == (other["loss"], other["heldout_loss"])
    shards = here / "runs" / "shards" / "latents" / "train" / "latents"
    assert (shards / "00000000.safetensors").is_file()
