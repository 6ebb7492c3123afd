"""Stages whose model is shown the preceding scenes' own clips, as the policy is in stage 3."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from policies.unified import Unified
from policies.unified.model import UnifiedModel
from policies.unified.settings import Limits as ReadLimits
from pretrain import precompute
from pretrain.diffusion import DiffusionConfig, FlowLoss, prepare, train_diffusion
from pretrain.examples import Source, batch_of
from pretrain.loop import LoopConfig
from pretrain.skipped import Skipped
from pretrain.sources import Precomputed, Videos
from pretrain.work import CONSOLE, DataConfig, Work
from rlnsp.config import ConfigError
from rlnsp.dataset.safety import Limits
from rlnsp.distributed import Ranks
from rlnsp.manifest import open_manifest, write_manifest
from tests.policies.tiny import GEOMETRY, make_model
from tests.videos import BLUE, GREEN, RED, audio_only, encode, moving, truncated

SIZE = GEOMETRY.height, GEOMETRY.width
LOOP = LoopConfig(steps=3, batch_size=2, learning_rate=1e-2, warmup=1)
BROKEN = {("cut", "broken"), ("sound", "no pictures"), ("away", "missing"), ("long", "too long")}
LIMITS = Limits(max_seconds=2.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of the policy's very size; what came before them is of all sizes, or not there, or broken."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    contexts = {
        "red": encode(folder / "red-before.mp4", moving(RED, 9, 40, 72)),
        "green": encode(folder / "green-before.mp4", moving(GREEN, 6, 64, 48)),
        "blue": encode(folder / "blue-before.mp4", moving(BLUE, 3, 32, 64)),
        "words": None,
        "cut": folder / "cut-before.mp4",
        "sound": folder / "sound-before.mp4",
        "away": folder / "away-before.mp4",
        "long": encode(folder / "long-before.mp4", moving(RED, 40)),
    }
    truncated(folder / "cut-before.mp4", moving(RED, 30))
    audio_only(folder / "sound-before.mp4")
    for number, (id, context) in enumerate(contexts.items()):
        encode(folder / f"{id}.mp4", moving((RED, GREEN, BLUE)[number % 3], 5, *SIZE), fps=8.0)
        row = {"id": id, "context": f"Before {id}.", "video": f"{id}.mp4"}
        rows += [row | ({"context_clip": context.name} if context else {})]
    rows += [{**rows[0], "id": "held", "split": "heldout"}]
    write_manifest(folder / "manifest.jsonl", rows)
    return folder


def videos(folder: Path, model: UnifiedModel, *, on: bool = True) -> Videos:
    scenes = open_manifest(folder / "manifest.jsonl", "train")
    return Videos(scenes, model, [SIZE], LIMITS, "context", context_clips=on)


def shards(
    folder: Path, model: UnifiedModel, output: Path, train: list[str], *, on: bool = True
) -> Precomputed:
    model.train_only(*train)
    skipped = Skipped(output / "made.jsonl")
    found = precompute.precomputed(videos(folder, model, on=on), output / "shards", "stage", skipped, CONSOLE)
    model.train_only()
    return found


def trained(model: UnifiedModel, source: Source, folder: Path, train: list[str]) -> dict[str, Tensor]:
    config = DiffusionConfig(text="context", context_clips=True, drop=0.2, train=train, loop=LOOP)
    train_diffusion("stage", config, model, {"train": source, "heldout": source}, folder)
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def reasons(path: Path) -> set[tuple[str, str]]:
    return {(one["id"], one["kind"]) for one in map(json.loads, path.read_text().splitlines())}


@pytest.mark.parametrize("train", [["queries", "connector"], ["connector", "transformer"]])
def test_shards_and_videos_give_the_same_numbers_and_list_the_same_clips(
    data: Path, tmp_path: Path, train: list[str]
) -> None:
    one, two = make_model(), make_model()
    streamed = trained(one, videos(data, one), tmp_path / "streamed", train)
    kept = trained(two, shards(data, two, tmp_path, train), tmp_path / "kept", train)
    assert all(torch.equal(value, kept[name]) for name, value in streamed.items())
    for name in ("streamed", "kept"):
        assert reasons(tmp_path / name / "skipped.jsonl") == BROKEN
    if "queries" not in train:  # what Qwen says at them was made, and listed, beforehand
        assert reasons(tmp_path / "made.jsonl") == BROKEN


def test_the_model_is_shown_what_the_policy_is_shown(data: Path) -> None:
    policy = Unified(Unified.Config(device="cpu"), make_model())
    source = videos(data, policy.model)
    model = policy.model
    for row, id in enumerate(("red", "green", "blue", "words")):
        scene = source.scene(row)
        hidden = source.hidden(row, source.context(row))
        assert hidden is not None
        assert scene.id == id
        made = model.translate(torch.cat([hidden[None], model.read_texts([])]))
        torch.testing.assert_close(made.embeds, policy.encode([scene]).embeds, rtol=0, atol=1e-6)
        words = videos(data, model, on=False)
        without = words.hidden(row, words.context(row))
        assert without is not None
        assert torch.equal(hidden, without) is (id == "words")
    prepare(model, DiffusionConfig(limits=ReadLimits(clip_frames=2)))
    shown = source.context(0)
    assert shown is not None
    assert len(shown) == 2
    prepare(model, DiffusionConfig())
    shown = source.context(0)
    assert shown is not None
    assert len(shown) == model.comprehension.limits.clip_frames == 4  # of nine
    source.limits = Limits(max_clip_mb=0.01)
    with pytest.raises(ValueError, match=r"has a context_clip, .*red-before.mp4, that is longer in memory"):
        source.load(0)


def test_a_batch_whose_queries_are_trained_is_read_with_its_clips(data: Path) -> None:
    policy = Unified(Unified.Config(device="cpu"), make_model())
    source = videos(data, policy.model)
    examples = [source.example(row, source.load(row)) for row in range(4)]
    batch = replace(batch_of((GEOMETRY.num_frames, *SIZE), examples), hidden=None)
    config = DiffusionConfig(text="context", context_clips=True)
    with torch.no_grad():
        read = FlowLoss(policy.model, config, Ranks())._condition(batch)
        torch.testing.assert_close(read.embeds, policy.encode(batch.scenes).embeds, rtol=0, atol=1e-6)


def test_shards_that_were_made_without_them_are_refused_and_those_of_other_clips_too(
    data: Path, tmp_path: Path
) -> None:
    model = make_model()
    shards(data, model, tmp_path, ["transformer"], on=False)
    with pytest.raises(
        ConfigError, match=r"conditions-stage: made with other settings .*context_clips was not"
    ):
        shards(data, model, tmp_path, ["transformer"])
    shards(data, model, tmp_path / "on", ["transformer"])
    with pytest.raises(ConfigError, match=r"context_clips was .*, now not there"):
        shards(data, model, tmp_path / "on", ["transformer"], on=False)
    scenes = list(open_manifest(data / "manifest.jsonl", "train"))
    digest = precompute.digest_of_contexts(scenes)
    assert digest != precompute.digest_of_contexts(scenes[1:])
    before = data / "blue-before.mp4"
    before.write_bytes(before.read_bytes() + b"0")
    assert digest != precompute.digest_of_contexts(scenes)


@pytest.mark.parametrize("clips", ["memory", "stream"])
def test_the_stages_sources_read_them_only_when_they_are_asked_to(
    data: Path, tmp_path: Path, clips: Any
) -> None:
    model = make_model()
    work = Work(tmp_path, DataConfig(manifest=str(data / "manifest.jsonl"), clips=clips), GEOMETRY)
    lines = (data / "manifest.jsonl").read_text().splitlines()
    assert "away-before" in lines[6]
    for on in (True, False):
        if clips == "memory":  # which looks for all files at once
            manifest = data / "there.jsonl"
            manifest.write_text("\n".join(line for line in lines if "away-before" not in line) + "\n")
            work = Work(tmp_path, DataConfig(manifest=str(manifest)), GEOMETRY)
        config = DiffusionConfig(text="context", context_clips=on, train=["queries"], loop=LOOP)
        model.train_only("queries")
        source = work.sources(model, "stage", config, tmp_path / "stage")["train"]
        context = source.example(0, source.load(0)).context
        assert (context is not None) is on
        if on:
            assert context is not None
            assert context.shape == (4, 40, 72, 3)
            assert np.abs(context[-1].astype(int) - context[0]).max() > 50
            with pytest.raises(ValueError, match="has a context_clip"):
                source.load(4)


def test_settings_that_read_nothing_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="context_clips: they are clips of the preceding scene, .*text=context"
    ):
        DiffusionConfig(context_clips=True)
    rows = [json.loads(line) for line in (data / "manifest.jsonl").read_text().splitlines()]
    bare = data / "bare.jsonl"
    write_manifest(bare, [{key: row[key] for key in row if key != "context_clip"} for row in rows])
    model = make_model()
    source = Videos(open_manifest(bare, "train"), model, [SIZE], LIMITS, "context", context_clips=True)
    with pytest.raises(ConfigError, match="no scene has a context_clip to read"):
        trained(model, source, tmp_path, ["transformer"])
