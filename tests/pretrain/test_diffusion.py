from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from policies.unified.comprehension import CAPTION
from policies.unified.model import UnifiedModel
from pretrain.clips import Clips
from pretrain.diffusion import DiffusionConfig, FlowLoss, _shift, encode_clips, train_diffusion
from pretrain.examples import Batch, batch_of
from pretrain.loop import LoopConfig
from pretrain.sources import InMemory
from rlnsp.config import ConfigError
from rlnsp.distributed import Ranks
from rlnsp.types import Condition
from tests.policies.tiny import make_model
from tests.pretrain.conftest import MakeClips

LOOP = LoopConfig(steps=2, batch_size=2, learning_rate=1e-2, warmup=1)


def data_of(model: UnifiedModel, clips: Clips, folder: Path) -> dict[str, InMemory]:
    source = InMemory(clips, encode_clips(model, clips, folder / "latents.safetensors"))
    return {"train": source, "heldout": source}


def weights(model: UnifiedModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def part(name: str) -> str:
    if name == "connector.queries":
        return "queries"
    return name.partition(".")[0]


def trained(config: DiffusionConfig, clips: Clips, folder: Path) -> dict[str, Tensor]:
    model = make_model()
    train_diffusion("stage", config, model, data_of(model, clips, folder), folder / "stage")
    return weights(model)


@pytest.mark.parametrize(
    "train", [["queries"], ["queries", "connector"], ["transformer"], ["queries", "connector", "transformer"]]
)
def test_a_stage_changes_the_parts_it_names_and_no_other(
    tmp_path: Path, make_clips: MakeClips, train: list[str]
) -> None:
    before = weights(make_model())
    after = trained(DiffusionConfig(train=train, drop=0.0, loop=LOOP), make_clips(), tmp_path)
    changed = {part(name) for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == set(train)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # LTX's own, under autocast
def test_a_trained_model_is_frozen_again(tmp_path: Path, make_clips: MakeClips) -> None:
    model = make_model()
    config = DiffusionConfig(precision="bf16", loop=replace(LOOP, steps=1))
    train_diffusion("stage", config, model, data_of(model, make_clips(), tmp_path), tmp_path)
    assert not any(value.requires_grad for value in model.parameters())
    assert model.compute_dtype == torch.float32


def test_training_without_texts_does_not_read_them(tmp_path: Path, make_clips: MakeClips) -> None:
    def after(drop: float, word: str) -> Tensor:
        config = DiffusionConfig(drop=drop, loop=LOOP)
        return trained(config, make_clips(word=word), tmp_path / f"{drop}-{word}")[
            "transformer.proj_in.weight"
        ]

    assert torch.equal(after(1.0, "cat"), after(1.0, "dog"))
    assert not torch.equal(after(0.0, "cat"), after(0.0, "dog"))


def test_the_context_is_read_only_when_it_is_asked_for(tmp_path: Path, make_clips: MakeClips) -> None:
    clips = make_clips()
    scenes = [replace(scene, context="something else") for scene in clips.scenes]
    texts: tuple[tuple[Literal["caption", "context"], bool], ...] = (("caption", True), ("context", False))
    for text, same in texts:
        config = DiffusionConfig(text=text, drop=0.0, loop=LOOP)
        one = trained(config, clips, tmp_path / text / "a")
        two = trained(config, replace(clips, scenes=scenes), tmp_path / text / "b")
        assert torch.equal(one["transformer.proj_in.weight"], two["transformer.proj_in.weight"]) is same


def test_the_loss_is_that_of_a_slow_loop_and_dropped_rows_have_the_null_condition(
    make_clips: MakeClips, tmp_path: Path, model_of: UnifiedModel
) -> None:
    clips = make_clips(4)
    latents = encode_clips(model_of, clips, tmp_path / "latents.safetensors")
    generator = torch.Generator().manual_seed(0)
    sigma, noise = torch.tensor([0.1, 0.4, 0.7, 1.0]), torch.randn(latents.shape, generator=generator)
    dropped = torch.tensor([False, True, False, True])
    condition = model_of.encode_texts([scene.caption or "" for scene in clips.scenes], template=CAPTION)
    with torch.no_grad():
        losses = model_of.flow_loss(latents, sigma, noise, condition, dropped)
    null = model_of.encode_texts([""], template="{}")
    assert torch.allclose(condition.null_embeds, null.embeds, atol=1e-6)
    for row in range(4):
        source = condition.null_embeds if dropped[row] else condition.embeds[row : row + 1]
        own = Condition(embeds=source, mask=null.mask, null_embeds=null.embeds, null_mask=null.mask)
        x = (1 - sigma[row]) * latents[row] + sigma[row] * noise[row]
        with torch.no_grad():
            v = model_of.velocity(x[None], sigma[row : row + 1], own)[0]
        errors = [
            float(v[n, c] - (noise[row, n, c] - latents[row, n, c])) ** 2
            for n in range(v.shape[0])
            for c in range(v.shape[1])
        ]
        assert losses[row].item() == pytest.approx(np.mean(errors), rel=1e-4)


def test_the_parts_of_a_batch_have_the_loss_of_the_whole(
    make_clips: MakeClips, tmp_path: Path, model_of: UnifiedModel
) -> None:
    """Whoever has which example, and however many go through the model at a time."""
    source = data_of(model_of, make_clips(5), tmp_path)["train"]
    examples = [source.example(row, source.load(row)) for row in range(5)]

    def share(rank: int, count: int) -> Batch:
        own = [one if place % count == rank else None for place, one in enumerate(examples)]
        return batch_of(source.shape, own)

    def loss(parts: list[Batch], micro_batch_size: int | None) -> float:
        flow = FlowLoss(model_of, DiffusionConfig(micro_batch_size=micro_batch_size), Ranks())
        generators = [torch.Generator().manual_seed(0) for _ in parts]
        with torch.no_grad():
            found = [
                value.item()
                for part, generator in zip(parts, generators, strict=True)
                for value in flow(part, generator, 0.5)
            ]
        assert len({tuple(one.get_state().tolist()) for one in generators}) == 1
        return sum(found)

    alone = loss([share(0, 1)], None)
    for parts, micro_batch_size in (
        ([share(0, 1)], 2),
        ([share(0, 2), share(1, 2)], None),
        ([share(0, 3), share(1, 3), share(2, 3), batch_of(source.shape, [None] * 5)], 1),
    ):
        assert loss(parts, micro_batch_size) == pytest.approx(alone, rel=1e-5)


@pytest.fixture
def model_of() -> UnifiedModel:
    return make_model()


def test_sigma_is_shifted_as_the_sampler_shifts_it(model_of: UnifiedModel) -> None:
    shift, tokens = _shift(model_of), model_of.grid().num_tokens
    # LTX: mu is 0.95 at 1024 tokens and 2.05 at 4096, linear in between and beyond.
    mu = 0.95 + (tokens - 1024) * (2.05 - 0.95) / (4096 - 1024)
    sigma = torch.tensor([0.2, 0.5, 0.9])
    assert shift * sigma / (1 + (shift - 1) * sigma) == pytest.approx(
        model_of.scheduler.time_shift(mu, 1.0, sigma)
    )


def test_latents_are_kept_until_the_vae_or_the_clips_change(
    tmp_path: Path, make_clips: MakeClips, model_of: UnifiedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clips = tmp_path / "latents.safetensors", make_clips()
    first = encode_clips(model_of, clips, path)
    with monkeypatch.context() as patch:
        patch.setattr(UnifiedModel, "encode_frames", None)
        assert torch.equal(encode_clips(model_of, clips, path), first)
    other = encode_clips(model_of, make_clips(seed=1), path)
    assert not torch.equal(other, first)
    assert torch.equal(encode_clips(model_of, clips, path), first)
    with torch.no_grad():
        model_of.vae.encoder.conv_in.conv.weight.mul_(0.5)
    assert not torch.equal(encode_clips(model_of, clips, path), first)


def test_a_scene_without_its_caption_is_refused(tmp_path: Path, make_clips: MakeClips) -> None:
    clips = make_clips()
    bare = replace(clips, scenes=[replace(scene, caption=None) for scene in clips.scenes])
    with pytest.raises(ConfigError, match="scene 'scene-0' has no caption"):
        trained(DiffusionConfig(loop=LOOP), bare, tmp_path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train": ["vae"]}, "train must name some of queries, connector, transformer; got vae"),
        ({"train": ["queries", "lora"]}, "got queries, lora"),
        ({"train": []}, "got none"),
        ({"drop": 1.5}, "drop must be in"),
        ({"sigma_std": -1.0}, "sigma_std must be 0 or more"),
        ({"micro_batch_size": 0}, "micro_batch_size must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DiffusionConfig(**wrong)


def test_checkpointing_changes_no_number_and_is_off_again(tmp_path: Path, make_clips: MakeClips) -> None:
    calls: list[bool] = []

    def after(checkpointing: bool) -> dict[str, Tensor]:
        model = make_model()
        transformer: Any = model.transformer
        transformer.register_forward_pre_hook(
            lambda module, args: calls.append(transformer.is_gradient_checkpointing)
        )
        config = DiffusionConfig(drop=0.0, gradient_checkpointing=checkpointing, loop=LOOP)
        folder = tmp_path / str(checkpointing)
        train_diffusion("stage", config, model, data_of(model, make_clips(), folder), folder / "stage")
        assert not transformer.is_gradient_checkpointing
        return weights(model)

    kept, computed_again = after(False), after(True)
    assert True in calls
    assert False in calls
    for name, value in kept.items():
        torch.testing.assert_close(computed_again[name], value, rtol=1e-5, atol=1e-6)
