"""LTX-Video from a prompt to latents and pixels, against diffusers' own LTXPipeline."""

import shutil

import numpy as np
import pytest
import sentencepiece
import torch
from diffusers.pipelines.ltx.pipeline_ltx import LTXPipeline
from transformers import T5Tokenizer

from policies import ltx
from policies.ltx_video import LTXVideo
from policies.settings import Lora, Source
from tests.policies.pipelines import SCENES, SIZE, integrate, run_pipeline

STEPS = 6


@pytest.fixture
def policy(pipeline_folders):
    config = LTXVideo.Config(folder=str(pipeline_folders["ltx_video"]), lora=Lora(rank=2), **SIZE)
    return LTXVideo(config)


@pytest.fixture
def pipeline(pipeline_folders):
    made = LTXPipeline.from_pretrained(pipeline_folders["ltx_video"])
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_the_deterministic_sampler_is_ltx_pipeline_latent_for_latent(policy, pipeline, guidance_scale):
    """From the prompt on: the null row is the pipeline's own empty negative prompt."""
    theirs = run_pipeline(pipeline, STEPS, guidance_scale, output_type="latent", frame_rate=8.0)
    ours = integrate(policy, STEPS, guidance_scale)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert torch.equal(policy.sigmas(STEPS), pipeline.scheduler.sigmas)


def test_decoded_pixels_are_ltx_pipelines(policy, pipeline):
    theirs = run_pipeline(pipeline, STEPS, 1.0, output_type="np", frame_rate=8.0)
    ours = policy.decode(integrate(policy, STEPS), torch.Generator())
    assert ours.fps == 8.0
    np.testing.assert_array_equal(ours.frames, (theirs * 255).round().astype(np.uint8))


def test_padding_is_masked(policy):
    mask = policy.encode(SCENES).mask
    lengths = [len(policy.model.reader.tokenizer(scene.context)["input_ids"]) for scene in SCENES]
    assert mask.shape == (2, 24)
    assert mask.sum(1).tolist() == lengths


def test_latents_of_clips_are_normalised_by_the_vaes_moments(policy):
    frames = np.random.default_rng(0).integers(0, 256, (1, 5, 32, 64, 3), dtype=np.uint8)
    vae, grid = policy.model.vae, policy.model.grid
    x = torch.from_numpy(frames).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    with torch.no_grad():
        mean = vae.encode(x).latent_dist.mean
    expected = LTXPipeline._normalize_latents(mean, vae.latents_mean, vae.latents_std)
    expected = LTXPipeline._pack_latents(expected)
    torch.testing.assert_close(policy.encode_video(frames), expected)
    assert grid.shape == tuple(mean.shape[1:])
    torch.testing.assert_close(ltx.denormalise(ltx.normalise(mean, vae), vae), mean)


def test_a_tokenizer_that_is_spiece_model_alone_is_read(policy, pipeline_folders, tmp_path):
    """So it comes with LTX-Video; the same pieces as tokenizer.json give the same ids."""
    words = [word for scene in SCENES for word in scene.context.split()] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=28,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (tmp_path / "spiece.vocab").unlink()
    stock = pipeline_folders["ltx_video"] / "tokenizer" / "tokenizer_config.json"
    shutil.copy(stock, tmp_path / "tokenizer_config.json")
    given = LTXVideo(LTXVideo.Config(**{**vars(policy.config), "tokenizer": Source(path=str(tmp_path))}))
    own = given.model.reader.tokenizer
    assert isinstance(own, T5Tokenizer)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    for scene in SCENES:
        assert own(scene.context)["input_ids"] == [*pieces.encode(scene.context), 1]  # and the end
    assert given.encode(SCENES).mask.sum() < policy.encode(SCENES).mask.sum()
