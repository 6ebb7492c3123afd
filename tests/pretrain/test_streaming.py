"""Stages on videos as they come: the numbers of clips in memory, of shards, and of a run that was killed."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from policies.unified.comprehension import CAPTION
from policies.unified.model import UnifiedModel
from pretrain import precompute
from pretrain.batches import ClipBatches
from pretrain.clips import read_clips
from pretrain.diffusion import DiffusionConfig, encode_clips, train_diffusion
from pretrain.examples import Source
from pretrain.loop import LoopConfig
from pretrain.skipped import Skipped
from pretrain.sources import InMemory, Precomputed, Videos
from pretrain.tensor_shards import TensorShards
from pretrain.work import CONSOLE, DataConfig, Work
from rlnsp.config import ConfigError
from rlnsp.dataset.safety import Limits
from rlnsp.manifest import open_manifest, write_manifest
from tests.policies.tiny import GEOMETRY, make_model
from tests.videos import BLUE, GREEN, RED, audio_only, encode, moving, truncated

SIZE = GEOMETRY.height, GEOMETRY.width
LOOP = LoopConfig(steps=4, batch_size=2, learning_rate=1e-2, warmup=1, save_every=2, evaluate_every=2)
SHAPES = [SIZE, (64, 32)]


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of the tiny policy's very size and rate."""
    folder = tmp_path_factory.mktemp("exact")
    for number, colour in enumerate((RED, GREEN, BLUE, RED, GREEN)):
        encode(folder / f"{number}.mp4", moving(colour, 5, *SIZE) // (1 + number % 2), fps=8.0)
    return with_captions(folder, sorted(folder.glob("*.mp4")))


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of all sizes and rates, and files that are none."""
    folder = tmp_path_factory.mktemp("wild")
    encode(folder / "wide.mp4", moving(RED, 30, 72, 128), fps=30.0)
    encode(folder / "odd.mp4", moving(GREEN, 20, 71, 133), fps=24.0)
    encode(folder / "tall.mp4", moving(BLUE, 20, 128, 72), fps=25.0)
    encode(folder / "taller.mp4", moving(RED, 20, 128, 40), fps=25.0)
    rates = np.cumsum([0, *[0.02, 0.11, 0.05] * 5])
    encode(folder / "varies.mp4", moving(BLUE, 16, 40, 80), times=rates.tolist())
    encode(folder / "short.mp4", moving(RED, 3, 32, 64), fps=16.0)
    truncated(folder / "truncated.mp4", moving(RED, 30))
    audio_only(folder / "sound.mp4")
    return with_captions(folder, sorted(folder.glob("*.mp4")))


def with_captions(folder: Path, videos: list[Path]) -> Path:
    rows = [
        {"id": path.stem, "context": f"Before {path.stem}.", "caption": f"It is {path.stem}.", "split": split}
        | {"video": path.name}
        for path in videos
        for split in ("train",)
    ]
    write_manifest(folder / "manifest.jsonl", rows)
    return folder


def videos(folder: Path, model: UnifiedModel, shapes: list[tuple[int, int]] | None = None) -> Videos:
    return Videos(open_manifest(folder, need_context=False), model, shapes or [SIZE], Limits(), "caption")


def trained(
    model: UnifiedModel, source: Source, folder: Path, workers: int = 0, **about: Any
) -> dict[str, Tensor]:
    config = DiffusionConfig(**{"drop": 0.2, "loop": LOOP, **about})
    train_diffusion("stage", config, model, {"train": source, "heldout": source}, folder, workers)
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, two[name]) for name, value in one.items())


def losses(folder: Path) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["heldout_loss"]) for line in lines]


def test_videos_of_the_right_size_train_as_clips_in_memory_do(exact: Path, tmp_path: Path) -> None:
    model = make_model()
    clips = read_clips(exact / "manifest.jsonl", "train", (GEOMETRY.num_frames, *SIZE), GEOMETRY.fps)
    latents = encode_clips(model, clips, tmp_path / "latents.safetensors")
    source = videos(exact, model)
    for row in range(len(clips.scenes)):
        assert np.array_equal(source.load(row).frames, clips.frames[row])
        # Encoded alone or with others: kernels may round differently.
        torch.testing.assert_close(source.example(row, source.load(row)).latents, latents[row])
    trained(model, InMemory(clips, latents), tmp_path / "memory")
    other = make_model()
    trained(other, videos(exact, other), tmp_path / "streamed")
    one, two = (np.array(losses(tmp_path / name)) for name in ("memory", "streamed"))
    assert one == pytest.approx(two, rel=1e-4)


def test_held_out_clips_of_which_none_can_be_used_stop_it_before_the_first_step(
    exact: Path, tmp_path: Path
) -> None:
    """Not at the first evaluation, which may be days away."""
    truncated(tmp_path / "bad" / "cut.mp4", moving(RED, 30))
    bad = with_captions(tmp_path / "bad", [tmp_path / "bad" / "cut.mp4"])
    model, folder = make_model(), tmp_path / "out"
    data = {"train": videos(exact, model), "heldout": videos(bad, model)}
    with pytest.raises(ConfigError, match=r"no held-out clip can be used; .*skipped.jsonl has the reasons"):
        train_diffusion("stage", DiffusionConfig(loop=LOOP), model, data, folder)
    assert [path.name for path in folder.iterdir()] == ["skipped.jsonl"]


@pytest.mark.parametrize("train", [["queries", "connector"], ["connector", "transformer"]])
def test_shards_give_the_numbers_of_the_videos(wild: Path, tmp_path: Path, train: list[str]) -> None:
    one, two = make_model(), make_model()
    streamed = trained(one, videos(wild, one, SHAPES), tmp_path / "streamed", workers=2, train=train)
    source = shards(wild, two, tmp_path, train)
    kept = trained(two, source, tmp_path / "kept", train=train)
    assert (source.hidden is None) is ("queries" in train)  # what Qwen says changes with them
    assert same(streamed, kept)
    assert losses(tmp_path / "kept") == losses(tmp_path / "streamed")
    lists = [(tmp_path / name / "skipped.jsonl").read_text() for name in ("streamed", "made")]
    reasons = [{(one["id"], one["kind"]) for one in map(json.loads, text.splitlines())} for text in lists]
    expected = {("short", "too short"), ("sound", "no pictures"), ("truncated", "broken")}
    assert reasons == [expected, expected]


def test_a_condition_that_is_kept_is_the_one_that_is_made(wild: Path) -> None:
    model = make_model()
    source = videos(wild, model)
    for row in (0, 3):
        hidden = source.hidden(row, None)
        assert hidden is not None
        kept = model.translate(torch.cat([hidden[None], model.read_texts([])]))
        made = model.encode_texts([source.scene(row).caption or ""], template=CAPTION)
        torch.testing.assert_close(kept.embeds, made.embeds)
        torch.testing.assert_close(kept.null_embeds, made.null_embeds)
    assert not torch.allclose(kept.embeds, kept.null_embeds)


def shards(folder: Path, model: UnifiedModel, output: Path, train: list[str]) -> Precomputed:
    model.train_only(*train)
    skipped = Skipped(output / "made" / "skipped.jsonl")
    found = precompute.precomputed(
        videos(folder, model, SHAPES), output / "shards", "stage", skipped, CONSOLE
    )
    model.train_only()
    return found


def test_shards_are_made_once_and_not_for_another_vae_or_other_texts(
    wild: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    shards(wild, model, tmp_path, ["transformer"])
    with monkeypatch.context() as patch:
        patch.setattr(UnifiedModel, "encode_frames", None)
        patch.setattr(UnifiedModel, "read_texts", None)
        shards(wild, model, tmp_path, ["transformer"])
    with torch.no_grad():
        model.connector.queries.mul_(2)
    with pytest.raises(ConfigError, match=r"conditions-stage: made with other settings \(made_from.queries"):
        shards(wild, model, tmp_path, ["transformer"])
    with torch.no_grad():
        model.vae.encoder.conv_in.conv.weight.mul_(0.5)
    with pytest.raises(ConfigError, match=r"latents: made with other settings \(made_from.vae was"):
        shards(wild, model, tmp_path, ["queries"])


class Killed(Exception):
    pass


class Dying(Videos):
    """Is killed at a load."""

    left = 10**9

    def load(self, row: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise Killed
        return super().load(row)


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed_is_bitwise_the_straight_run(wild: Path, tmp_path: Path, workers: int) -> None:
    def source(model: UnifiedModel, left: int = 10**9) -> Dying:
        found = Dying(open_manifest(wild, need_context=False), model, SHAPES, Limits(), "caption")
        found.left = left
        return found

    one = make_model()
    straight = trained(one, source(one), tmp_path / "straight", workers)
    two = make_model()
    # 8 files an epoch and 8 for the held-out loss: dies in the third or fourth step, after the checkpoint.
    with pytest.raises(Killed):
        trained(two, source(two, left=20), tmp_path / "cut", workers)
    assert (tmp_path / "cut" / "checkpoint.safetensors").is_file()
    three = make_model()
    assert same(trained(three, source(three), tmp_path / "cut", workers), straight)
    assert losses(tmp_path / "cut") == losses(tmp_path / "straight")


def test_clips_go_to_the_shape_nearest_to_theirs_and_a_batch_has_one(wild: Path, tmp_path: Path) -> None:
    model = make_model()
    made = ClipBatches(videos(wild, model, SHAPES), 2, 0, Skipped(tmp_path / "skipped.jsonl"))
    shapes = {}
    for step in range(8):
        batch = made.next(step)
        frames, height, width = batch.shape
        assert frames == GEOMETRY.num_frames
        assert batch.latents is not None
        assert batch.latents.shape == (2, 2 * (height // 8) * (width // 8), 8)
        shapes |= {scene.id: batch.shape for scene in batch.scenes}
    assert shapes == {
        **dict.fromkeys(("wide", "odd", "varies"), (5, 32, 64)),
        **dict.fromkeys(("tall", "taller"), (5, 64, 32)),
    }


def test_stages_that_want_clips_in_memory_get_those_that_can_be_used(wild: Path, tmp_path: Path) -> None:
    clips = Work(tmp_path, DataConfig(manifest=str(wild), clips="stream"), GEOMETRY, need_context=False).train
    usable = ["odd", "tall", "taller", "varies", "wide"]
    assert [scene.id for scene in clips.scenes] == usable
    assert clips.frames.shape == (5, 5, 32, 64, 3)
    listed = [json.loads(line)["id"] for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert listed == ["short", "sound", "truncated"]


@pytest.mark.parametrize("clips", ["stream", "precomputed"])
def test_a_shard_that_breaks_off_is_listed_and_the_rest_of_it_used(
    exact: Path, tmp_path: Path, clips: Literal["stream", "precomputed"]
) -> None:
    (tmp_path / "shards").mkdir()
    for split in ("train", "heldout"):
        path = tmp_path / "shards" / f"{split}.tar"
        with tarfile.open(path, "w") as tar:
            for video in sorted(exact.glob("*.mp4")):
                said = json.dumps({"caption": "A bar.", "split": split}).encode()
                member = tarfile.TarInfo(f"{video.stem}.json")
                member.size = len(said)
                tar.addfile(member, io.BytesIO(said))
                tar.add(video, video.name)
        if split == "train":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    data = DataConfig(manifest=str(tmp_path / "shards"), clips=clips)
    work = Work(tmp_path / "out", data, GEOMETRY, need_context=False)
    model = make_model()
    sources = work.sources(model, "stage", DiffusionConfig(loop=LOOP), tmp_path / "out" / "stage")
    assert len(sources["heldout"]) == 5
    assert 0 < len(sources["train"]) < 5
    for row in range(len(sources["train"])):
        example = sources["train"].example(row, sources["train"].load(row))
        assert example.latents.shape == (model.grid().num_tokens, 8)
    (line,) = (tmp_path / "out" / "stage" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["id"].endswith("train.tar")
    assert "breaks off" in json.loads(line)["why"]


def test_a_shape_that_the_vae_does_not_divide_is_refused_at_once(wild: Path) -> None:
    with pytest.raises(ConfigError, match="width=60: this VAE and DiT want a multiple of 8"):
        videos(wild, make_model(), [(32, 60)])


def test_shards_that_were_stopped_go_on_with_the_next(tmp_path: Path) -> None:
    made: list[int] = []

    def make(row: int) -> tuple[Tensor | None, dict[str, Any]]:
        made.append(row)
        if row == 5 and made.count(5) == 1:
            raise Killed
        return (None, {"why": "none"}) if row == 3 else (torch.full((row + 1, 2), float(row)), {"row": row})

    with pytest.raises(Killed):
        TensorShards(tmp_path, 7, {"a": 1}, 2).fill(make)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "00000000.safetensors",
        "00000002.safetensors",
    ]
    done: list[int] = []
    again = TensorShards(tmp_path, 7, {"a": 1}, 2)
    again.fill(make, done.append)
    assert made == [0, 1, 2, 3, 4, 5, 4, 5, 6]
    assert done == [4, 6, 7]
    for row in (0, 1, 2, 4, 5, 6):
        tensor, note = again.read(row)
        assert tensor is not None
        assert tensor.shape == (row + 1, 2)
        assert tensor.unique().tolist() == [row]
        assert note == {"row": row}
    assert again.read(3) == (None, {"why": "none"})
    assert set(load_file(tmp_path / "00000004.safetensors")) == {"4", "5"}
    with pytest.raises(ConfigError, match=r"made_from.a was 1, now 2"):
        TensorShards(tmp_path, 7, {"a": 2}, 2)
    (tmp_path / "00000006.safetensors").write_bytes(b"broken")
    with pytest.raises(
        ConfigError, match="00000006.safetensors: cannot be read .*; remove it, and precompute"
    ):
        TensorShards(tmp_path, 7, {"a": 1}, 2).read(6)
