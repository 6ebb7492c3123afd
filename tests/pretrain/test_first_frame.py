"""Stages that give some clips' first frame, for the model to go on from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from policies.latents import Geometry
from policies.unified.model import UnifiedModel
from pretrain.diffusion import DiffusionConfig, FlowLoss, encode_clips, train_diffusion
from pretrain.examples import Batch, batch_of
from pretrain.loop import LoopConfig
from pretrain.sources import InMemory
from rlnsp.config import ConfigError
from rlnsp.distributed import Ranks
from tests.policies.tiny import make_model
from tests.pretrain.conftest import MakeClips


@pytest.fixture
def model() -> UnifiedModel:
    return make_model()


@pytest.fixture
def source(model: UnifiedModel, make_clips: MakeClips, tmp_path: Path) -> InMemory:
    clips = make_clips(6)
    return InMemory(clips, encode_clips(model, clips, tmp_path / "latents.safetensors"))


def share(source: InMemory, rank: int = 0, count: int = 1) -> Batch:
    examples = [source.example(row, source.load(row)) for row in range(len(source))]
    return batch_of(source.shape, [one if n % count == rank else None for n, one in enumerate(examples)])


def loss(
    model: UnifiedModel, parts: list[Batch], first_frame: float, seed: int = 0, micro: int | None = None
) -> float:
    flow = FlowLoss(model, DiffusionConfig(first_frame=first_frame, micro_batch_size=micro), Ranks())
    with torch.no_grad():
        return sum(
            value.item() for part in parts for value in flow(part, torch.Generator().manual_seed(seed), 0.5)
        )


def test_a_given_first_frame_is_seen_as_it_is_and_the_loss_is_the_mean_over_the_others(
    model: UnifiedModel, source: InMemory
) -> None:
    latents = source.latents[:3]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(latents.shape, generator=generator)
    sigma, first = torch.tensor([0.3, 0.6, 0.9]), torch.tensor([True, False, True])
    condition = model.encode_texts(["a", "b", "c"])
    calls: list[dict[str, Any]] = []
    model.transformer.register_forward_pre_hook(
        lambda module, args, named: calls.append(named), with_kwargs=True
    )
    with torch.no_grad():
        losses = model.flow_loss(latents, sigma, noise, condition, first=first)
        n = model.grid().frame_tokens
        assert 2 * n == latents.shape[1]
        (call,) = calls
        for row in range(3):
            s = sigma[row]
            x = (1 - s) * latents[row] + s * noise[row]
            level = 1000 * s * torch.ones(2 * n)
            if first[row]:
                x, level = torch.cat([latents[row, :n], x[n:]]), level * (torch.arange(2 * n) >= n)
            torch.testing.assert_close(call["hidden_states"][row], x)
            torch.testing.assert_close(call["timestep"][row], level)
            v = model.velocity(x[None], level[None] / 1000, condition.take(torch.tensor([row])))[0]
            errors = (v - (noise[row] - latents[row])).square()
            expected = errors[n:].mean() if first[row] else errors.mean()
            assert losses[row].item() == pytest.approx(expected.item(), rel=1e-4)


def test_rows_are_drawn_for_all_whoever_has_them_and_no_other_draw_changes(
    model: UnifiedModel, source: InMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[Any]] = {}

    def flow_loss(
        self: Any, latents: Any, sigma: Any, noise: Any, condition: Any, *more: Any
    ) -> torch.Tensor:
        drop, _, first = more
        seen.setdefault("drawn", []).append((sigma, noise, drop))
        seen.setdefault("first", []).append(first)
        return sigma

    with monkeypatch.context() as patch:
        patch.setattr(UnifiedModel, "flow_loss", flow_loss)
        for first_frame in (0.0, 0.5, 1.0):
            loss(model, [share(source)], first_frame)
        loss(model, [share(source, rank, 2) for rank in (0, 1)], 0.5)
    none, half, whole, even, odd = seen["first"]
    assert none is None
    assert whole.all()
    assert 0 < half.sum() < len(half)
    assert torch.equal(torch.stack([even, odd], 1).flatten(), half)
    for drawn in seen["drawn"][1:3]:
        assert all(torch.equal(a, b) for a, b in zip(drawn, seen["drawn"][0], strict=True))


def test_the_parts_of_a_batch_have_the_loss_of_the_whole(model: UnifiedModel, source: InMemory) -> None:
    alone = loss(model, [share(source)], 0.5)
    assert alone != pytest.approx(loss(model, [share(source)], 0.0), rel=1e-2)
    assert loss(model, [share(source)], 0.5, micro=2) == pytest.approx(alone, rel=1e-5)
    two = [share(source, rank, 2) for rank in (0, 1)]
    assert loss(model, two, 0.5) == pytest.approx(alone, rel=1e-5)


def test_a_picture_is_not_given_since_nothing_else_would_be_left(model: UnifiedModel) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 1, 32, 64, 3), dtype=np.uint8)
    latents = model.encode_frames(pictures)
    geometry = Geometry(num_frames=1, height=32, width=64, fps=8.0)
    assert latents.shape[1] == model.grid(geometry).num_tokens
    scenes: Any = [None] * 3
    batch = Batch(
        scenes=scenes,
        shape=(1, 32, 64),
        latents=latents,
        hidden=model.read_texts(["a", "b", "c"])[:-1].detach(),
        contexts=[None] * 3,
        here=torch.arange(3),
        total=3,
    )
    assert loss(model, [batch], 1.0) == loss(model, [batch], 0.0)


def test_training_learns_from_it(model: UnifiedModel, source: InMemory, tmp_path: Path) -> None:
    loop = LoopConfig(steps=2, batch_size=2, learning_rate=1e-2, warmup=1)
    before = {name: value.clone() for name, value in model.named_parameters()}
    found = []
    for first_frame in (0.0, 1.0):
        other = make_model()
        config = DiffusionConfig(first_frame=first_frame, drop=0.0, loop=loop)
        data = {"train": source, "heldout": source}
        train_diffusion("stage", config, other, data, tmp_path / str(first_frame))
        found.append(dict(other.named_parameters()))
    name = "transformer.proj_in.weight"
    assert not torch.equal(found[0][name], found[1][name])
    assert not torch.equal(found[1][name], before[name])


@pytest.mark.parametrize("share_of_rows", [-0.1, 1.1])
def test_a_share_that_is_none_is_refused(share_of_rows: float) -> None:
    with pytest.raises(ConfigError, match="first_frame must be in"):
        DiffusionConfig(first_frame=share_of_rows)
