"""Every command of docs/scale.md, in its order, at small size: from raw videos to a policy tuned by RL."""

import argparse
import hashlib
import json
import math
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from PIL import Image
from torch.distributed.run import get_args_parser

from benchmarks.two_processes import UNIFIED, launch
from rewards.nsp_reward.command import JudgeCommand
from rlnsp import config
from rlnsp.benchmark import suite
from rlnsp.cli import main
from rlnsp.manifest import read_manifest
from tests import pages
from tests.chat_server import Said, speaking
from tests.policies.tiny import GEOMETRY, make_policy_folder
from tests.pretrain.curate.models import speaker
from tests.videos import BLUE, GREEN, RED, cut_together, encode, moving, raw_videos

PAGE = pages.ROOT / "docs" / "scale.md"
URLS = ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8001/v1")
"""Of the page's two servers; the test's own answers in the place of both."""
TINY = "tiny"
"""A policy folder of random weights, each part in its published layout, in the place of hub ids."""
SIZE = {"num_frames": GEOMETRY.num_frames, "height": GEOMETRY.height, "width": GEOMETRY.width, "fps": 8}
STAGES = ("connect", "joint", "human")


def loop(stage: str) -> list[str]:
    return [f"{stage}.loop.steps=2", f"{stage}.loop.batch_size=2", f"{stage}.micro_batch_size=1"]


RUN = [
    f"policy.config.comprehension.path={TINY}/comprehension",
    *(f"policy.config.{part}.path={TINY}" for part in ("vae", "scheduler")),
    *(f"policy.config.{name}={value}" for name, value in SIZE.items()),
    *("trainer.num_iterations=1", "trainer.scenes_per_iteration=2", "trainer.group_size=4"),
    *("algorithm.config.credit.best_k=1", "algorithm.config.credit.worst_k=1", "trainer.report=false"),
    *("sampler.num_steps=4", "sampler.window.size=1", "evaluation.num_scenes=2", "evaluation.bootstrap=20"),
]
SMALL = {
    "curate": [
        *(f"clips.{name}={value}" for name, value in SIZE.items()),
        "clips.time=4",
        "clips.shapes=[]",
        "heldout=0.5",
    ],
    "pretrain": [
        f"parts.comprehension.path={TINY}/comprehension",
        *(f"parts.{part}.path={TINY}" for part in ("transformer", "vae", "scheduler")),
        *(f"geometry.{name}={value}" for name, value in SIZE.items()),
        *(setting for stage in STAGES for setting in loop(f"text_to_video.{stage}")),
        *("transformer.num_queries=4", "data.shapes=[]", "data.workers=1", "threads=1", "device=cpu"),
    ],
    "sft": [*loop("sft"), "data.shapes=[]", "data.workers=1", "threads=1", "device=cpu"],
    "plan": [
        *RUN,
        "trainer.scenes_per_iteration=16",  # a multiple of the devices
        *(f"policy.config.{part}.path={TINY}" for part in ("transformer", "connector")),
    ],
    "check": RUN,
    "train": RUN,
    "eval": RUN,
    "report": [],
    "export": [],
    "generate": [],
}
"""What makes a command take a second: settings that win over the page's.  One without fails the test."""
OF_CONFIG = {"nsp_single_gpu": ["sampler.window.end=3"]}
"""And what a config wants besides."""


def small(words: Sequence[str]) -> list[str]:
    """The command as it is run here."""
    config = words[words.index("--config") + 1] if "--config" in words else ""
    if "--stage" in words:  # as that command is told it, with a clip for each device
        stage = words[words.index("--stage") + 1]
        return [*words, *(said.replace("batch_size=2", "batch_size=16") for said in SMALL[stage])]
    return [*words, *SMALL[words[0]], *OF_CONFIG.get(config, [])]


@dataclass
class Walk:
    """The commands of the page that have been run."""

    here: Path
    url: str
    ran: list[str] = field(default_factory=list)
    launched: list[list[str]] = field(default_factory=list)

    def run(self, command: str) -> None:
        program, *words = pages.words(command)
        if program in ("shuf", "grep"):
            subprocess.run(command, shell=True, check=True, cwd=self.here)
        elif program in ("accelerate", "torchrun"):
            self.launch(program, words)
        elif program == "python":  # tests/benchmarks/test_paper_scale.py runs it with --size small
            assert words[:2] == ["-m", "benchmarks.paper_scale"], f"the test does not know {command}"
        else:
            assert program == "rlnsp", f"the test does not know {command}"
            self.rlnsp(words)
        self.ran.append(program if program != "rlnsp" else words[0])

    def rlnsp(self, words: list[str]) -> None:
        if words[0] == "judge":  # tests/vllm starts such servers; here its words are read
            parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
            JudgeCommand().add_arguments(parser)
            assert parser.parse_args(words[1:]).action == "serve"
            return
        assert main(self.given(words)) == 0, words

    def given(self, words: Sequence[str]) -> list[str]:
        """With the test's own server, and at small size."""
        given = small(words)
        for url in URLS:
            given = [word.replace(url, self.url) for word in given]
        if words[0] in ("train", "check"):  # whose configs mean the page's first server
            given.append(f"rewards.nsp_reward.config.openai.base_urls=[{self.url}]")
        return given

    def launch(self, program: str, words: list[str]) -> None:
        """Two processes in the place of as many as the page says; once, whoever launches the same command."""
        if program == "accelerate":
            assert words.pop(0) == "launch"
        parser = launch_command_parser() if program == "accelerate" else get_args_parser()
        args = parser.parse_args(words)
        script, rest = args.training_script, args.training_script_args
        assert args.module
        assert script == "rlnsp"
        if program == "accelerate":
            assert (pages.ROOT / args.config_file).is_file()
        if rest in self.launched or rest[0] == "sft":  # tests/pretrain/test_together starts that one in two
            return
        self.launched.append(rest)
        log = self.here / "launched"
        processes = launch(run_in, (self.here, self.given(rest)), log, 2, preload=[UNIFIED])
        for process in processes:
            process.join()
        said = [log.with_suffix(f".{rank}").read_text() for rank in (0, 1)]
        assert [process.exitcode for process in processes] == [0, 0], said


def run_in(folder: Path, words: list[str]) -> int:
    """A command, in a process of its own."""
    os.chdir(folder)
    return main(words)


@dataclass
class Model:
    """Behind the server: it curates, and then judges clips by their very pixels, so that a group has both."""

    judges: bool = False

    def answer(self, text: str, images: list[np.ndarray]) -> Said:
        if not self.judges:
            return speaker(lambda colour, refused: f"A bar waits over a {colour} ground.")(text, images)
        if images:
            return f"A picture of brightness {np.stack(images).mean():.6f}."
        words = ("Yes", "No") if "Yes or No" in text else ("Pass", "Fail")
        chance = 0.1 + 0.8 * hashlib.sha256(text.encode()).digest()[0] / 255
        told = [(words[0], math.log(chance)), (words[1], math.log(1 - chance))]
        return words[chance < 0.5], [told]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the page's reader brings: raw videos, and captioned images."""
    monkeypatch.chdir(tmp_path)
    encode(raw_videos(tmp_path / "raw") / "two.mp4", cut_together(GREEN, RED))  # whose split is heldout
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    for number, colour in enumerate((RED, GREEN, BLUE, RED)):
        Image.fromarray(moving(colour, 1)[0]).save(images / f"{number}.jpg")
        (images / f"{number}.txt").write_text("A bar over a coloured ground.")
    (images / "3.json").write_text('{"split": "heldout"}')
    make_policy_folder(tmp_path / TINY)
    return tmp_path


def test_the_page_s_benchmark_is_of_every_prompt() -> None:
    """The config evaluates fewer on its way."""
    (words,) = (one for one in map(pages.words, pages.commands(PAGE)) if one[1] == "eval")
    asked = suite.load(words[words.index("--prompts") + 1])
    given = [word for word in words if word.startswith("evaluation.")]
    run = config.load(words[words.index("--config") + 1], given)
    everyone = read_manifest(asked.prompts)
    assert len(suite.scenes_of(suite.measured_by(run, asked), asked.by)) == len(everyone) == 216


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # LTX's own, under autocast
def test_every_command_runs_after_the_one_before(here: Path) -> None:
    model = Model()
    try:
        with speaking(model.answer) as server:
            walk = Walk(here, server.url)
            for command in pages.commands(PAGE):
                walk.run(command)
                model.judges = "curate" in walk.ran
    finally:
        torch.set_flush_denormal(False)
    assert set(SMALL) <= set(walk.ran), "a setting for a command that the page has no more"
    assert walk.ran.index("curate") < walk.ran.index("pretrain") < walk.ran.index("sft")
    assert walk.ran.index("sft") < walk.ran.index("train") < walk.ran.index("eval")
    assert len(walk.launched) == 1
    stages = {name: here / "runs" / "nsp_pretrain" / name / "metrics.jsonl" for name in STAGES}
    stages["sft"] = here / "runs" / "nsp_sft" / "sft" / "metrics.jsonl"
    assert {name: len(path.read_text().splitlines()) for name, path in stages.items()} == dict.fromkeys(
        (*STAGES, "sft"), 1
    )
    for run in ("nsp_single", "nsp", "nsp_clips"):
        assert json.loads((here / "runs" / run / "summary.json").read_text())["status"] == "done"
    rows = json.loads((here / "benchmark" / "results.json").read_text())
    assert "checklist" in json.dumps(rows)
    for made in ("runs/nsp/report.html", "exported/rlnsp-policy.yaml", "next.mp4"):
        assert (here / made).is_file()
