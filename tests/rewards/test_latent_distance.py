import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo

import policies
from rewards.latent_distance import LatentDistance
from rlnsp.settings import ConfigError
from rlnsp.testing import check_reward
from rlnsp.testing.bench import make_bench
from rlnsp.types import Sample, Scene
from rlnsp.world import futures, scenes
from tests.policies import tiny
from tests.policies.pipelines import wan

RNG = np.random.default_rng(0)
CLIPS = RNG.integers(0, 256, (4, 9, 32, 32, 3), np.uint8)
WORLD = Path(policies.__file__ or "").parent / "world" / "vae"
STD = torch.linspace(0.5, 2.0, 8)  # of the tiny VAE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """LTX's VAE, its moments in its weights."""
    folder = tmp_path_factory.mktemp("ltx")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny.vae().save_pretrained(folder)
    return folder


def reward(folder, **settings):
    return LatentDistance(LatentDistance.Config(vae=str(folder), device="cpu", **settings))


def sample(frames, true, id="a"):
    return Sample(scene=Scene(id=id, context="A ball."), frames=frames, fps=8.0, futures=true)


def by_hand(vae, std, clip, true):
    """The least over the true clips, a clip at a time."""

    def latents(frames):
        pixels = torch.tensor(frames).float().permute(3, 0, 1, 2)[None] / 127.5 - 1
        with torch.no_grad():
            z = vae.encode(pixels).latent_dist.mean[0]
        return torch.stack([z[row] / std[row] for row in range(len(z))])

    return -min(float((latents(clip) - latents(one)).abs().mean()) for one in true)


@pytest.mark.parametrize("batch_size", [1, 16])
def test_it_is_the_distance_of_normalised_latents_to_the_nearest(folder, batch_size):
    vae = AutoencoderKLLTXVideo.from_pretrained(folder)
    samples = [sample(CLIPS[0], CLIPS[1:3]), sample(CLIPS[1], CLIPS[1:3]), sample(CLIPS[1], CLIPS[3:], "b")]
    expected = [by_hand(vae, STD, one.frames, one.futures) for one in samples]
    assert reward(folder, batch_size=batch_size)(samples) == pytest.approx(expected, abs=1e-5)
    assert expected[1] == 0.0
    assert expected[2] < -0.01


def test_wans_deviations_are_in_its_config(tmp_path):
    vae = wan(0).vae
    vae.save_pretrained(tmp_path)
    expected = by_hand(vae, torch.tensor(vae.config["latents_std"]), CLIPS[0], CLIPS[1:])
    assert reward(tmp_path)([sample(CLIPS[0], CLIPS[1:])]) == pytest.approx([expected], abs=1e-5)


def test_clips_of_another_size_are_not_scored(folder):
    assert reward(folder)([sample(CLIPS[0], CLIPS[1:, :, :, :16])]) == [None]


def test_what_is_no_vae_is_named(tmp_path):
    tiny.transformer().save_pretrained(tmp_path)
    with pytest.raises(
        ConfigError, match=re.escape(f"{tmp_path}: a LTXVideoTransformer3DModel, not an auto")
    ):
        reward(tmp_path)
    with pytest.raises(ConfigError, match="no such folder. Download it .*hf download"):
        reward(tmp_path / "none")
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        LatentDistance.Config(batch_size=0)


def test_the_worlds_own_vae_tells_true_next_scenes_from_others():
    given = scenes("heldout", 3, 0)
    clips = [futures(scene.context, 1, seed=1)[0] for scene in given]
    true = [futures(scene.context, 8, seed=0) for scene in given]
    samples = [sample(clip, follows, id=str(row)) for row, follows in enumerate(true) for clip in clips]
    scores = np.array(reward(WORLD)(samples)).reshape(len(given), len(clips))
    assert (scores.argmax(1) == np.arange(len(given))).all()


def test_it_keeps_the_contract():
    check_reward(reward(WORLD), make_bench(scenes("heldout", 3, seed=0)).samples)
