"""``rlnsp plan`` on text-to-video pipelines, whose weights are not read."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.memory import peak_bytes
from benchmarks.plan_error import _call
from policies.ltx_video import LTXVideo
from policies.settings import Lora
from policies.wan import Wan
from rlnsp import cli
from rlnsp.plan.costs import Costs
from tests.policies.pipelines import SIZE, make_pipeline_folder

CLASSES = {"ltx_video": LTXVideo, "wan": Wan}


@pytest.fixture(params=sorted(CLASSES))
def name(request):
    return request.param


@pytest.fixture
def folder(name, tmp_path):
    return make_pipeline_folder(name, tmp_path / name)


@pytest.fixture
def settings(name, folder):
    return CLASSES[name].Config(folder=str(folder), lora=Lora(rank=2, alpha=4.0), device="cpu", **SIZE)


def without_weights(folder: Path) -> None:
    """What is left are the parts' settings."""
    for file in [*folder.rglob("*.safetensors"), *folder.rglob("*.model")]:
        file.unlink()


def test_an_outline_has_the_sizes_of_the_policy(name, folder, settings):
    policy = CLASSES[name](settings)
    own = {
        "text encoder": policy.model.text_encoder,
        "VAE": policy.model.vae,
        "transformer": policy.model.transformer,
    }
    trained = sum(value.numel() for _, value in policy.named_trainable())
    sizes = {part: sum(value.numel() for value in model.parameters()) for part, model in own.items()}
    latent = tuple(policy.noise(1, torch.Generator()).shape[1:])
    texts = policy.model.encode_texts(["a ball"])
    without_weights(folder)
    outline = CLASSES[name].outline(settings)
    assert outline.trained == trained
    assert {part: one.parameters for part, one in outline.parts.items()} == {
        **sizes,
        "transformer": sizes["transformer"] - trained,
    }
    assert outline.latent == latent
    assert outline.condition == tuple(texts.embeds.shape[1:])


def test_conditions_are_planned_in_the_precision_that_they_are_in(name, folder, settings):
    settings = replace(settings, dtype="bf16")
    texts = CLASSES[name](settings).model.encode_texts(["a ball"])
    assert CLASSES[name].outline(settings).condition_bytes == texts.embeds.element_size() == 2


def test_operations_grow_with_the_batch_and_double_with_guidance(name, settings):
    costs = Costs(CLASSES[name].outline(settings))
    one, four = (costs.of_calls(batch, 1.0).flops for batch in (1, 4))
    assert 0 < four == 4 * one
    assert costs.of_calls(1, 3.0).flops == 2 * one
    assert costs.of_decoding(2).flops == 2 * costs.of_decoding(1).flops > 0


def test_the_memory_of_a_timestep_a_token_is_planned(tmp_path):
    """As the profiler measures it; without the first frame it is less."""
    folder = make_pipeline_folder("ltx_video", tmp_path / "ltx")
    own = LTXVideo.Config(folder=str(folder), lora=Lora(rank=2, alpha=4.0), device="cpu", **SIZE)
    given = replace(own, first_frame="context")
    policy, costs = LTXVideo(given), Costs(LTXVideo.outline(given))
    x = policy.noise(4, torch.Generator().manual_seed(0))
    condition = policy.model.encode_texts(["a ball"] * 4)
    condition = replace(condition, first=x[:, : costs.outline.first])
    assert costs.outline.first == x.shape[1] // 2  # one of two latent frames
    measured = peak_bytes(partial(_call, policy, x, torch.full((4,), 0.7), condition, True))
    planned = costs.of_training(4, 1.0).bytes
    assert planned == pytest.approx(measured, rel=0.03)
    assert Costs(LTXVideo.outline(own)).of_training(4, 1.0).bytes < 0.9 * planned


def test_the_command_plans_it(name, folder, capsys):
    size = [f"policy.config.{key}={value}" for key, value in SIZE.items()]
    assert cli.main(["plan", "--config", name, f"policy.config.folder={folder}", *size]) == 0
    assert "fits: " in capsys.readouterr().out
