import ast
import re
import shlex
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPModel

from rewards.frame_aesthetic import HEAD, HEAD_REMEDY, FrameAesthetic
from rlnsp.settings import ConfigError
from rlnsp.testing import check_reward
from rlnsp.testing.bench import make_bench
from rlnsp.types import Sample, Scene
from rlnsp.world import scenes
from tests.rewards.tiny_clip import WIDTH, save_clip

CLIPS = np.random.default_rng(0).integers(0, 256, (2, 5, 32, 32, 3), np.uint8)


def published(width=WIDTH):
    """The head's tensors under the names that LAION published them by: dropout stands between the layers."""
    generator = torch.Generator().manual_seed(0)
    sizes = {0: (1024, width), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}
    head = {}
    for place, (out, into) in sizes.items():
        head[f"layers.{place}.weight"] = torch.randn(out, into, generator=generator) / into**0.5
        head[f"layers.{place}.bias"] = torch.randn(out, generator=generator)
    return head


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = save_clip(tmp_path_factory.mktemp("clip"))
    save_file(published(), folder / "head.safetensors")
    return folder


def reward(folder, head="head.safetensors", **settings):
    config = FrameAesthetic.Config(head=str(folder / head), model=str(folder), device="cpu", **settings)
    return FrameAesthetic(config)


def sample(frames):
    return Sample(scene=Scene(id="a", context="A ball."), frames=frames, fps=8.0)


def by_hand(folder, frames):
    """A frame at a time, with CLIP's whole model, which 32 x 32 frames need no resizing for."""
    images = reward(folder).images
    model: Any = CLIPModel.from_pretrained(folder).eval()
    head = published()
    mean, std = torch.tensor(images.image_mean), torch.tensor(images.image_std)
    scores = []
    for frame in frames:
        pixels = ((torch.tensor(frame) / 255 - mean) / std).permute(2, 0, 1)
        with torch.no_grad():
            x = model.get_image_features(pixels[None]).pooler_output[0]
        x = x / x.square().sum().sqrt()
        for place in (0, 2, 4, 6, 7):
            x = head[f"layers.{place}.weight"] @ x + head[f"layers.{place}.bias"]
        scores.append(float(x))
    return sum(scores) / len(scores)


def test_it_is_the_published_head_on_unit_embeddings(folder):
    expected = [by_hand(folder, clip) for clip in CLIPS]
    samples = [sample(clip) for clip in CLIPS]
    assert reward(folder)(samples) == pytest.approx(expected, abs=1e-4)
    assert reward(folder, batch_size=3, offload=True)(samples) == pytest.approx(expected, abs=1e-4)
    few = [by_hand(folder, clip[[0, 4]]) for clip in CLIPS]
    assert reward(folder, num_frames=2)(samples) == pytest.approx(few, abs=1e-4)
    assert abs(expected[0] - expected[1]) > 1e-3


def test_the_seam_is_kept(folder):
    check_reward(reward(folder, num_frames=2), make_bench(scenes("heldout", 3, seed=0)).samples)


def test_the_command_that_it_names_converts_the_published_pickle(folder, tmp_path, monkeypatch):
    """The command's own Python, on a pickle in the published layout."""
    monkeypatch.chdir(tmp_path)
    torch.save(published(), f"{HEAD}.pth")
    words = shlex.split(HEAD_REMEDY.partition("convert it: ")[2].partition("; then")[0])
    code = words[words.index("-c") + 1]
    assert "weights_only=True" in code
    exec(compile(ast.parse(code), "remedy", "exec"), {})
    (tmp_path / "aesthetic.safetensors").rename(folder / "converted.safetensors")
    samples = [sample(clip) for clip in CLIPS]
    assert reward(folder, "converted.safetensors")(samples) == reward(folder)(samples)


def test_a_head_that_is_not_there_or_no_head_is_an_error_with_the_command(folder, tmp_path):
    remedy = re.escape(f"/{HEAD}.pth")
    with pytest.raises(ConfigError, match=f"no-head: there is no such file.*{remedy}"):
        reward(folder, "no-head")
    torch.save(published(), folder / "pickle.pth")
    with pytest.raises(ConfigError, match=f"is not the head for this CLIP.*{remedy}"):
        reward(folder, "pickle.pth")
    save_file(published(width=768), folder / "large.safetensors")
    with pytest.raises(ConfigError, match=rf"size mismatch for 0\.weight.*{remedy}"):
        reward(folder, "large.safetensors")


def test_a_missing_clip_is_an_error_with_the_download_command(folder, tmp_path):
    config = FrameAesthetic.Config(head=str(folder / "head.safetensors"), model=str(tmp_path / "clip"))
    with pytest.raises(ConfigError, match="there is no such folder.*hf download openai/clip"):
        FrameAesthetic(config)


@pytest.mark.parametrize("name", ["num_frames", "batch_size"])
def test_counts_must_be_positive(name):
    settings: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1; got 0"):
        FrameAesthetic.Config(head="head.safetensors", **settings)
