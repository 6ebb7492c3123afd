"""Wan from a prompt to latents and pixels, against diffusers' own WanPipeline."""

import json
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from policies.latents import pack, unpack
from policies.settings import Lora, Source
from policies.wan import Wan
from rlnsp.settings import ConfigError
from tests.policies.pipelines import SCENES, SIZE, integrate, run_pipeline

STEPS = 6


@pytest.fixture
def policy(pipeline_folders):
    return Wan(Wan.Config(folder=str(pipeline_folders["wan"]), lora=Lora(rank=2), **SIZE))


@pytest.fixture
def like_euler(policy):
    return Wan(replace(policy.config, spacing="euler"))


@pytest.fixture
def pipeline(pipeline_folders):
    """With the scheduler that Wan comes with."""
    made = WanPipeline.from_pretrained(pipeline_folders["wan"])
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def euler(pipeline):
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=pipeline.scheduler.config.flow_shift)
    return pipeline


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_the_deterministic_sampler_is_wan_pipeline_with_euler_latent_for_latent(
    like_euler, euler, guidance_scale
):
    """From the prompt on: the null row is the pipeline's own empty negative prompt."""
    theirs = run_pipeline(euler, STEPS, guidance_scale, output_type="latent")
    ours = unpack(integrate(like_euler, STEPS, guidance_scale), like_euler.model.grid)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert torch.equal(like_euler.sigmas(STEPS), euler.scheduler.sigmas)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_the_scheduler_that_wan_comes_with_takes_the_same_step_at_first_order(
    policy, pipeline, guidance_scale
):
    """UniPC without corrector is then Euler on a straight path.  It tells the transformer whole timesteps."""
    first: Any = UniPCMultistepScheduler.from_config(
        pipeline.scheduler.config, solver_order=1, disable_corrector=list(range(STEPS))
    )
    pipeline.scheduler = first
    theirs = run_pipeline(pipeline, STEPS, guidance_scale, output_type="latent")
    ours = integrate(policy, STEPS, guidance_scale, sigmas=first.sigmas, levels=first.timesteps / 1000)
    torch.testing.assert_close(unpack(ours, policy.model.grid), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("num_steps", [1, 8, 50])
def test_the_sigmas_are_those_of_the_scheduler_that_wan_comes_with(policy, pipeline, num_steps):
    """It spaces from 1 to 0.001 where we do to 0, and the shift stretches that by 3 at most."""
    pipeline.scheduler.set_timesteps(num_steps)
    torch.testing.assert_close(policy.sigmas(num_steps), pipeline.scheduler.sigmas, rtol=0, atol=3e-3)


def test_the_sigmas_by_hand(policy, like_euler):
    """At 4 steps and shift 3: 3 s / (1 + 2 s) of s = 1, 3/4, 1/2, 1/4, and then 0."""
    expected = torch.tensor([1, 9 / 10, 3 / 4, 1 / 2, 0])
    torch.testing.assert_close(policy.sigmas(4), expected)
    # Euler's own spacing ends on the training schedule's last sigma, 0.001, shifted once, 0.003 / 1.002, and
    # then once more.
    least = 0.003 / 1.002
    torch.testing.assert_close(like_euler.sigmas(4)[-2], torch.tensor(3 * least / (1 + 2 * least)))


@pytest.mark.parametrize("shift", [1.0, 2.7, 5.0, 12.0])
def test_every_shift_begins_at_1_and_a_larger_one_stays_longer_at_noise(policy, shift):
    shifted = Wan(replace(policy.config, flow_shift=shift)).sigmas(8)
    assert shifted[0] == 1
    assert shifted[-1] == 0
    assert bool((shifted[1:-1] > policy.sigmas(8)[1:-1]).all()) == (shift > 3)


def test_decoded_pixels_are_wan_pipelines(like_euler, euler):
    theirs = run_pipeline(euler, STEPS, 1.0, output_type="np")
    ours = like_euler.decode(integrate(like_euler, STEPS), torch.Generator())
    assert ours.fps == 8.0
    # The pipeline divides by 1 / std where we multiply by std: a last digit, and so at most a level of grey.
    np.testing.assert_allclose(ours.frames, (theirs * 255).round(), rtol=0, atol=1)
    assert (ours.frames != (theirs * 255).round()).mean() < 1e-3


def test_latents_of_clips_are_normalised_by_the_vaes_moments(policy):
    frames = np.random.default_rng(0).integers(0, 256, (1, 5, 32, 64, 3), dtype=np.uint8)
    x = torch.from_numpy(frames).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    with torch.no_grad():
        mean = policy.model.vae.encode(x).latent_dist.mean
    ours = unpack(policy.encode_video(frames), policy.model.grid)
    # The tiny VAE's moments: means -0.5, 0, 0.25, 1 and deviations 0.5, 1, 1.5, 2.
    torch.testing.assert_close(ours[:, 0], (mean[:, 0] + 0.5) / 0.5)
    torch.testing.assert_close(ours[:, 3], (mean[:, 3] - 1.0) / 2.0)


def test_a_token_is_one_patch_of_the_transformer(policy):
    """Latents of 4 channels, 2 frames, 4 rows, 8 columns in patches of 1 x 2 x 2: 16 tokens of 16."""
    grid = policy.model.grid
    assert grid.shape == (4, 2, 4, 8)
    latents = torch.arange(4 * 2 * 4 * 8.0).reshape(1, *grid.shape)
    tokens = pack(latents, grid)
    assert tokens.shape == (1, 16, 16)
    assert sorted(tokens[0, 0].tolist()) == sorted(latents[0, :, 0, :2, :2].flatten().tolist())
    torch.testing.assert_close(unpack(tokens, grid), latents, rtol=0, atol=0)


def test_all_of_a_padded_text_is_attended_to(policy):
    condition = policy.encode(SCENES)
    assert condition.embeds.shape == (2, 24, 24)
    assert condition.mask.all()
    assert not condition.embeds[0, -1].any()  # zeros, as the pipeline pads


def test_the_shift_is_the_folders_unless_given(policy, pipeline_folders, tmp_path):
    scheduler = shutil.copytree(pipeline_folders["wan"] / "scheduler", tmp_path / "scheduler")
    path = scheduler / "scheduler_config.json"

    def sigmas(content):
        path.write_text(json.dumps({"num_train_timesteps": 1000, **content}))
        return Wan(replace(policy.config, scheduler=Source(path=str(scheduler)))).sigmas(4)

    half = torch.tensor(5 * 0.5 / (1 + 4 * 0.5))
    torch.testing.assert_close(sigmas({"flow_shift": 5.0})[2], half)
    torch.testing.assert_close(sigmas({"shift": 5.0})[2], half)  # a folder with Euler's scheduler
    with pytest.raises(ConfigError, match="has no flow_shift. Set policy.config.flow_shift"):
        sigmas({})


@pytest.mark.parametrize("key", [{"boundary_ratio": 0.9}, {"expand_timesteps": True}])
def test_wan_2_2_is_refused(policy, pipeline_folders, tmp_path, key):
    folder = shutil.copytree(pipeline_folders["wan"], tmp_path / "copy")
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **key}))
    with pytest.raises(ConfigError, match=r"is Wan2.2.*Give a Wan2.1 text-to-video pipeline"):
        Wan(replace(policy.config, folder=str(folder)))
