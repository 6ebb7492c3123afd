"""LTX's border against diffusers' own LTXPipeline, latent for latent."""

import numpy as np
import pytest
import torch
from diffusers.pipelines.ltx.pipeline_ltx import LTXPipeline

from policies import ltx
from policies.latents import Geometry, Grid, from_pixels, pack, to_pixels, unpack
from tests.policies import tiny

STEPS = 6


@pytest.fixture
def pipeline(model):
    parts = {"transformer": model.transformer, "vae": model.vae, "scheduler": ltx.ltx_scheduler()}
    made = LTXPipeline(text_encoder=None, tokenizer=None, **parts)  # pyright: ignore[reportArgumentType]
    made.set_progress_bar_config(disable=True)
    return made


def run_pipeline(pipeline, model, condition, guidance_scale, **kwargs):
    null = {
        "negative_prompt_embeds": condition.null_embeds.expand_as(condition.embeds),
        "negative_prompt_attention_mask": condition.null_mask.expand_as(condition.mask),
    }
    g = model.geometry
    return pipeline(
        height=g.height,
        width=g.width,
        num_frames=g.num_frames,
        frame_rate=g.fps,
        num_inference_steps=STEPS,
        guidance_scale=guidance_scale,
        prompt_embeds=condition.embeds,
        prompt_attention_mask=condition.mask,
        **null,
        **kwargs,
    ).frames


@torch.no_grad()
def integrate(model, x, condition, guidance_scale):
    sigmas = model.sigmas(STEPS)
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        v = model.velocity(x, sigma.expand(len(x)), condition, guidance_scale)
        x = x + (following - sigma) * v
    return x


@pytest.fixture
def condition(model):
    with torch.no_grad():
        made = model.encode_texts(["a ball rolls", "the lamp is lit"])
    # A fresh connector's output is small; at full size a condition that is mixed up shows.
    made = type(made)(
        embeds=50 * made.embeds,
        mask=made.mask.clone(),
        null_embeds=50 * made.null_embeds,
        null_mask=made.null_mask,
    )
    made.mask[1, -1] = False
    return made


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_the_deterministic_sampler_is_ltx_pipeline_latent_for_latent(
    model, pipeline, condition, guidance_scale
):
    x = model.noise(2, torch.Generator().manual_seed(1))
    theirs = run_pipeline(
        pipeline,
        model,
        condition,
        guidance_scale,
        output_type="latent",
        generator=torch.Generator().manual_seed(1),
    )
    ours = integrate(model, x, condition, guidance_scale)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(model.sigmas(STEPS), pipeline.scheduler.sigmas, rtol=0, atol=0)


def test_decoded_pixels_are_ltx_pipelines(model, pipeline, condition):
    x = model.noise(2, torch.Generator().manual_seed(1))
    theirs = run_pipeline(pipeline, model, condition, 1.0, output_type="np", latents=x)
    ours = model.decode(integrate(model, x, condition, 1.0), torch.Generator())
    assert ours.fps == 8.0
    assert ours.frames.shape == (2, 5, 32, 64, 3)
    np.testing.assert_array_equal(ours.frames, (theirs * 255).round().astype(np.uint8))


def test_the_velocity_depends_on_every_argument(model, condition):
    x, sigma = model.noise(2, torch.Generator().manual_seed(1)), torch.tensor([0.9, 0.5])
    swapped = condition.take(torch.tensor([1, 0]))
    base = model.velocity(x, sigma, condition)
    assert base.shape == x.shape
    assert base.dtype == torch.float32
    for other in (
        model.velocity(x.flip(0), sigma, condition),
        model.velocity(x, sigma.flip(0), condition),
        model.velocity(x, sigma, swapped),
        model.velocity(x, sigma, condition, 2.0),
        model.velocity(x, sigma, condition, geometry=Geometry(num_frames=5, height=32, width=64, fps=4.0)),
    ):
        assert (other - base).abs().amax((1, 2)).min() > 1e-4


def test_guidance_is_linear_in_its_scale(model, condition):
    """v(w) = v(null) + w (v(c) - v(null)): so v(0) is the null's velocity and v(3) = 3 v(1) - 2 v(0)."""
    x, sigma = model.noise(2, torch.Generator().manual_seed(1)), torch.tensor([0.9, 0.5])
    v = {w: model.velocity(x, sigma, condition, w) for w in (0.0, 1.0, 3.0)}
    torch.testing.assert_close(v[3.0], 3 * v[1.0] - 2 * v[0.0], rtol=0, atol=1e-5)


def test_ltx_schedule_at_the_papers_size_is_the_known_one():
    """8 steps, 6,144 tokens: exp-shifted by mu = 0.95 + (6144 - 1024) 1.1 / 3072, stretched to end on 0.1."""
    sigmas = ltx.schedule(ltx.ltx_scheduler(), 8, 6144)
    known = torch.tensor([1, 0.974, 0.940, 0.893, 0.827, 0.722, 0.534, 0.1, 0])
    torch.testing.assert_close(sigmas, known, rtol=0, atol=6e-4)


def test_a_schedule_of_one_step_is_refused():
    with pytest.raises(ValueError, match="at least 2 steps"):
        ltx.schedule(ltx.ltx_scheduler(), 1, 48)


@pytest.mark.parametrize(("patch", "patch_t"), [(1, 1), (2, 1), (2, 3)])
def test_unpack_inverts_pack(patch, patch_t):
    grid = Grid(channels=3, frames=3, height=4, width=6, patch=patch, patch_t=patch_t)
    latents = torch.randn(2, *grid.shape, generator=torch.Generator().manual_seed(0))
    tokens = pack(latents, grid)
    assert tokens.shape == (2, grid.num_tokens, 3 * patch**2 * patch_t)
    torch.testing.assert_close(tokens, LTXPipeline._pack_latents(latents, patch, patch_t), rtol=0, atol=0)
    torch.testing.assert_close(unpack(tokens, grid), latents, rtol=0, atol=0)


def test_denormalise_inverts_normalise_and_uses_each_channels_moments(model):
    latents = torch.randn(2, 8, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    normal = ltx.normalise(latents, model.vae)
    torch.testing.assert_close(normal[:, 7], (latents[:, 7] - 0.5) / 2.0)
    torch.testing.assert_close(ltx.denormalise(normal, model.vae), latents)


def test_pixels_survive_the_way_to_the_vae_and_back():
    frames = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16, 1).repeat(3, -1)
    pixels = to_pixels(frames)
    assert pixels.shape == (1, 3, 1, 16, 16)
    assert (pixels.min(), pixels.max()) == (-1, 1)
    np.testing.assert_array_equal(from_pixels(pixels), frames)


def test_frames_encode_to_packed_latents_and_a_generator_draws_round_the_mean(model):
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 32, 64, 3), dtype=np.uint8)
    mean = model.encode_frames(frames)
    assert mean.shape == (2, *model.noise(1, torch.Generator()).shape[1:])
    draws = [model.encode_frames(frames, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    torch.testing.assert_close(draws[0], draws[1], rtol=0, atol=0)
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], mean)


def test_a_picture_is_a_clip_of_one_frame(model):
    picture = np.zeros((1, 1, 32, 64, 3), dtype=np.uint8)
    geometry = Geometry(num_frames=1, height=32, width=64, fps=8.0)
    latents = model.encode_frames(picture)
    assert latents.shape == model.noise(1, torch.Generator(), geometry).shape
    condition = model.encode_texts(["a lamp"])
    loss = model.flow_loss(
        latents, torch.tensor([0.5]), torch.ones_like(latents), condition, geometry=geometry
    )
    assert loss.shape == (1,)


def test_a_vae_with_timestep_conditioning_decodes_with_the_passed_generator():
    model = tiny.make_model(timestep_conditioning=True)
    x = model.noise(2, torch.Generator().manual_seed(1))
    one, same, other = (model.decode(x, torch.Generator().manual_seed(s)).frames for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_decoding_in_parts_changes_nothing_but_rounding(model):
    x = model.noise(3, torch.Generator().manual_seed(1))
    whole = model.decode(x, torch.Generator()).frames
    model.decode_batch_size = 2
    parts = model.decode(x, torch.Generator()).frames
    np.testing.assert_allclose(parts.astype(int), whole.astype(int), rtol=0, atol=1)


def test_flow_loss_is_zero_for_the_true_velocity_and_drops_to_the_null_row(model, condition):
    latents, noise = (model.noise(2, torch.Generator().manual_seed(s)) for s in (1, 2))
    sigma = torch.tensor([0.3, 0.8])
    seen = {}

    def oracle(*, hidden_states, encoder_hidden_states, **_):
        seen["x"], seen["embeds"] = hidden_states, encoder_hidden_states
        return (noise - latents,)

    model.transformer.forward = oracle
    loss = model.flow_loss(latents, sigma, noise, condition, drop=torch.tensor([False, True]))
    torch.testing.assert_close(loss, torch.zeros(2), rtol=0, atol=0)
    torch.testing.assert_close(seen["x"][0], 0.7 * latents[0] + 0.3 * noise[0])
    torch.testing.assert_close(seen["embeds"][0], condition.embeds[0], rtol=0, atol=0)
    torch.testing.assert_close(seen["embeds"][1], condition.null_embeds[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("size", "message"),
    [((6, 32, 64), "num_frames=6.*4 k"), ((5, 30, 64), "height=30.*multiple of 8"), ((5, 32, 0), "width=0")],
)
def test_a_size_the_vae_cannot_make_is_refused(model, size, message):
    f, h, w = size
    with pytest.raises(ValueError, match=message):
        model.grid(Geometry(num_frames=f, height=h, width=w, fps=8.0))
