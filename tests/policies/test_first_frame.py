"""A clip that goes on from the last frame of the scene before it, against diffusers' own pipeline."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.ltx.pipeline_ltx_image2video import LTXImageToVideoPipeline
from PIL import Image

from policies import ltx
from policies.first_frame import first_frames
from policies.ltx_video import LTXVideo
from policies.settings import Lora
from policies.unified import Unified
from rlnsp import cli
from rlnsp.check.examination import examine
from rlnsp.check.sampling import stock
from rlnsp.check.subject import Subject
from rlnsp.manifest import write_manifest
from rlnsp.precision import in_precision
from rlnsp.randomness import Randomness
from rlnsp.rollout import rollout
from rlnsp.settings import ConfigError, DataConfig, SamplerConfig, WindowConfig
from rlnsp.testing.conformance import check_policy
from rlnsp.types import Scene
from tests.policies.pipelines import SIZE
from tests.policies.test_stock import RUN
from tests.videos import BLUE, GREEN, RED, encode, moving

STEPS = 6
COLOURS = (RED, GREEN, BLUE, RED)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Each with a clip of its own, of another size than the policy's."""
    folder = tmp_path_factory.mktemp("contexts")
    return [
        Scene(
            id=f"s{n}",
            context=f"a ball rolls {n}",
            context_clip=encode(folder / f"{n}.mp4", moving(colour, 7 + n, 72, 128)),
        )
        for n, colour in enumerate(COLOURS)
    ]


@pytest.fixture(scope="module")
def manifest(scenes, tmp_path_factory):
    path = tmp_path_factory.mktemp("manifest") / "manifest.jsonl"
    rows = []
    for number, scene in enumerate(scenes):
        clip = encode(path.parent / f"{number}.mp4", moving(COLOURS[number], 6, 72, 128))
        rows.append({"id": scene.id, "context": scene.context, "context_clip": clip.name})
    write_manifest(path, rows)
    return path


def moved(policy):
    """With an adapter that does something."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for _, value in policy.named_trainable():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return policy


def unified(folder, **settings):
    given = {"first_frame": "context", "lora": Lora(rank=2, alpha=4.0), **settings}
    return moved(Unified(Unified.Config(folder=str(folder), **given)))


def ltx_video(folder, **settings):
    given = {"first_frame": "context", "lora": Lora(rank=2, alpha=4.0), **SIZE, "max_length": 160, **settings}
    return moved(LTXVideo(LTXVideo.Config(folder=str(folder), **given)))


@pytest.fixture
def policy(policy_folder):
    return unified(policy_folder)


def seen(policy, scenes, sigmas=(0.9, 0.4)):
    """What a call of ``velocity`` takes."""
    x = policy.noise(len(sigmas), torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, torch.tensor(sigmas), policy.encode(scenes[: len(sigmas)])


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_latents_are_those_of_the_image_to_video_pipeline_from_the_picture_on(
    model, scenes, guidance_scale, monkeypatch
):
    """It draws from the VAE's distribution; the policy takes the mean, and here it is made to do so too."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    unused = dict.fromkeys(("text_encoder", "tokenizer"))
    pipeline = LTXImageToVideoPipeline(
        scheduler=ltx.ltx_scheduler(),
        vae=model.vae,
        transformer=model.transformer,
        **unused,  # pyright: ignore[reportArgumentType]
    )
    pipeline.set_progress_bar_config(disable=True)
    g = model.geometry
    frames = first_frames(scenes[:2], (g.height, g.width))
    with torch.no_grad():
        plain = model.encode_texts([scene.context for scene in scenes[:2]])
        # A fresh connector's output is small; at full size a condition that is mixed up shows.
        plain = replace(plain, embeds=50 * plain.embeds, null_embeds=50 * plain.null_embeds)
        condition = replace(plain, first=model.encode_frames(frames))
        made: Any = pipeline(
            image=[Image.fromarray(frame[0]) for frame in frames],  # pyright: ignore[reportArgumentType]
            height=g.height,
            width=g.width,
            num_frames=g.num_frames,
            frame_rate=g.fps,
            num_inference_steps=STEPS,
            guidance_scale=guidance_scale,
            prompt_embeds=condition.embeds,
            prompt_attention_mask=condition.mask,
            negative_prompt_embeds=condition.null_embeds.expand_as(condition.embeds),
            negative_prompt_attention_mask=condition.null_mask.expand_as(condition.mask),
            output_type="latent",
            generator=torch.Generator().manual_seed(1),
        )
        ours = {}
        for name, one in (("given", condition), ("not given", plain)):
            x, sigmas = model.noise(2, torch.Generator().manual_seed(1)), model.sigmas(STEPS)
            for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
                x = x + (following - sigma) * model.velocity(x, sigma.expand(2), one, guidance_scale)
            ours[name] = x
    torch.testing.assert_close(ours["given"], made.frames, rtol=0, atol=1e-5)
    rest = condition.first.shape[1]
    assert (ours["not given"] - made.frames)[:, rest:].abs().max() > 1e-2  # the others saw the frame


@pytest.mark.parametrize(
    ("which", "guidance_scale", "dtype"),
    [("unified", 3.0, "fp32"), ("unified", 1.0, "bf16"), ("ltx_video", 3.0, "bf16")],
)
def test_the_check_compares_with_that_pipeline(
    which, policy_folder, pipeline_folders, manifest, guidance_scale, dtype
):
    folders = {"unified": policy_folder, **pipeline_folders}
    policy = {"unified": unified, "ltx_video": ltx_video}[which](folders[which], dtype=dtype)
    run = replace(RUN, sampler=replace(RUN.sampler, guidance_scale=guidance_scale))
    finding = stock(Subject.of(replace(run, data=DataConfig(train=str(manifest))), policy))
    assert finding.verdict == "pass"
    assert float(finding.figures["relative_difference"]) < 1e-5


# torch says that its RMSNorm is slower under autocast
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_nothing_is_wrong_with_a_run_whose_clips_have_a_first_frame(policy, manifest):
    """The first ratio is exactly 1 among it."""
    report = examine(Subject.of(replace(RUN, data=DataConfig(train=str(manifest))), policy))
    assert report.failed == []
    assert report.findings["first ratio"].figures["movement"] == 0


def test_the_frame_is_cut_to_the_policys_size(policy, pipeline_folders, scenes):
    frames = first_frames(scenes[:2], (32, 64))
    assert frames.shape == (2, 1, 32, 64, 3)
    assert np.abs(frames[:, 0, -1].astype(int) - np.array([RED, GREEN])[:, None]).max() < 40  # the ground
    own = policy.model.encode_frames(frames)
    assert torch.equal(policy.encode(scenes[:2]).first, own)
    other = ltx_video(pipeline_folders["ltx_video"])
    torch.testing.assert_close(other.encode(scenes[:2]).first, other.model.encode_first(frames))


def test_both_policies_keep_to_the_protocol(policy, pipeline_folders, scenes):
    check_policy(policy, scenes[:2])
    check_policy(ltx_video(pipeline_folders["ltx_video"]), scenes[:2])


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_of_known_latents_the_velocity_is_noise_less_data_and_no_weight_has_a_gradient_by_it(
    policy, scenes, guidance_scale
):
    x, sigma, condition = seen(policy, scenes)
    n = condition.first.shape[1]
    assert 2 * n == x.shape[1]  # one of two latent frames
    v = policy.velocity(x, sigma, condition, guidance_scale)
    x0 = x - sigma[:, None, None] * v.detach()
    torch.testing.assert_close(x0[:, :n], condition.first, rtol=0, atol=1e-6)
    assert not torch.autograd.grad(v[:, :n].sum() + 0 * v.sum(), next(policy.named_trainable())[1])[0].any()
    with policy.reference():
        other = policy.velocity(x, sigma, condition, guidance_scale)
    assert torch.equal(other[:, :n], v[:, :n])
    assert (other - v)[:, n:].abs().max() > 1e-3


def test_the_model_sees_the_frame_itself_at_sigma_0_and_not_the_noise_in_its_place(policy, scenes):
    x, sigma, condition = seen(policy, scenes)
    n, calls = condition.first.shape[1], []
    bare = policy.model.transformer.get_base_model()
    hook = bare.register_forward_pre_hook(lambda module, args, named: calls.append(named), with_kwargs=True)
    v = policy.velocity(x, sigma, condition, 2.0)
    hook.remove()
    (call,) = calls
    for half in (0, 2):  # without the text, and with it
        assert torch.equal(call["hidden_states"][half : half + 2, :n], condition.first)
        assert torch.equal(call["hidden_states"][half : half + 2, n:], x[:, n:])
        assert not call["timestep"][half : half + 2, :n].any()
        assert torch.equal(call["timestep"][half : half + 2, n:], (1000 * sigma)[:, None].expand(-1, n))
    other = torch.cat([x[:, :n].flip(0), x[:, n:]], 1)
    assert torch.equal(policy.velocity(other, sigma, condition, 2.0)[:, n:], v[:, n:])
    swapped = replace(condition, first=condition.first.flip(0))
    assert (policy.velocity(x, sigma, swapped, 2.0) - v)[:, n:].abs().amax((1, 2)).min() > 1e-3


def test_checkpointing_and_bf16_change_nothing_but_memory_and_rounding(policy, policy_folder, scenes):
    x, sigma, condition = seen(policy, scenes)
    saving = unified(policy_folder, gradient_checkpointing=True)
    for one in (policy, saving):
        one.velocity(x, sigma, condition).square().sum().backward()
    for (name, a), (_, b) in zip(policy.named_trainable(), saving.named_trainable(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    in_bf16 = in_precision(policy, "bf16").encode(scenes[:2])
    assert in_bf16.first is not None
    assert torch.equal(in_bf16.first, condition.first)  # the VAE's own precision
    half = unified(policy_folder, dtype="bf16")
    v, n = half.velocity(x, sigma, condition), condition.first.shape[1]
    assert v.dtype == torch.float32
    exact = policy.velocity(x, sigma, condition)
    assert torch.equal(v[:, :n], exact[:, :n])  # known in fp32
    assert 0 < (v - exact).abs().max() < 0.2


@pytest.mark.parametrize("rule", ["ode", "flow_sde", "dance_sde", "cps"])
def test_every_rule_ends_at_the_given_latents_and_the_others_differ(policy, scenes, rule):
    level = 0.0 if rule == "ode" else 0.7
    sampler = SamplerConfig(num_steps=5, rule=rule, noise_level=level, window=WindowConfig(size=3))
    made = rollout(policy, scenes[:2], sampler, 2, Randomness(seed=0), chunk_size=4)
    first = made.condition.first
    assert first is not None
    n = first.shape[1]
    torch.testing.assert_close(made.latents[:, :n], first[made.group], rtol=0, atol=1e-5)
    assert (made.latents[0] - made.latents[2])[n:].abs().max() > 1e-2
    if rule != "ode":  # the noise of the steps reached the others
        assert (made.latents[0] - made.latents[1])[n:].abs().max() > 1e-2


def test_the_first_latent_frame_of_a_clip_is_that_of_its_first_frame_alone(model):
    """The VAE is causal in time: what a stage gives of a whole clip is what the policy encodes of a frame."""
    clip = np.random.default_rng(0).integers(0, 256, (2, 5, 32, 64, 3), dtype=np.uint8)
    shipped = Unified(Unified.Config(device="cpu")).model
    g = shipped.geometry
    other = np.random.default_rng(1).integers(0, 256, (2, g.num_frames, g.height, g.width, 3), dtype=np.uint8)
    for one, frames in ((model, clip), (shipped, other)):
        n = one.grid().frame_tokens
        whole, alone = one.encode_frames(frames), one.encode_frames(frames[:, :1])
        assert alone.shape[1] == n
        torch.testing.assert_close(whole[:, :n], alone, rtol=0, atol=1e-4)
        assert (whole[:, n : 2 * n] - alone).abs().max() > 0.1


def test_a_scene_without_a_clip_is_refused_before_anything_is_made(
    policy, pipeline_folders, scenes, tmp_path, capsys
):
    bare = [*scenes[:1], Scene(id="bare", context="a ball")]
    says = "scene 'bare' has no context_clip, .*name a file in its line.*first_frame=none"
    for one in (policy, ltx_video(pipeline_folders["ltx_video"])):
        one.check_scenes(scenes)
        for refused in (one.check_scenes, one.encode):
            with pytest.raises(ConfigError, match=says):
                refused(bare)
    Unified(replace(policy.config, first_frame="none")).check_scenes(bare)
    settings = [f"policy.config.folder={policy.config.folder}", "policy.config.first_frame=context"]
    slot = tmp_path / "slot.yaml"
    slot.write_text(f"use: unified\nconfig: {{folder: {policy.config.folder}, first_frame: context}}\n")
    for command in (
        ["train", "--output", str(tmp_path / "run"), *settings],
        ["check", *settings],
        ["eval", "--policy", str(slot)],
    ):
        assert cli.main(command) == 2, command
        assert "has no context_clip" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_clip_that_breaks_off_is_refused_by_name(policy, tmp_path):
    (tmp_path / "none.mp4").write_bytes(b"no video")
    broken = Scene(id="a", context="a ball", context_clip=tmp_path / "none.mp4")
    with pytest.raises(ConfigError, match=r"none.mp4: cannot be decoded .*; encode it again"):
        unified(policy.config.folder, context_clips=False).encode([broken])


def test_the_policy_reads_context_clips_unless_told_otherwise(policy, policy_folder, scenes):
    bare = [replace(scene, context_clip=None) for scene in scenes[:2]]
    words = unified(policy_folder, first_frame="none", context_clips=False)
    frames = unified(policy_folder, first_frame="none")
    assert torch.equal(words.encode(scenes[:2]).embeds, frames.encode(bare).embeds)
    assert not torch.equal(words.encode(scenes[:2]).embeds, frames.encode(scenes[:2]).embeds)
    assert torch.equal(policy.encode(scenes[:2]).embeds, frames.encode(scenes[:2]).embeds)
    only = unified(policy_folder, context_clips=False).encode(scenes[:2])
    assert torch.equal(only.embeds, words.encode(scenes[:2]).embeds)
    assert only.first is not None


def test_generate_takes_the_clip_before(policy_folder, scenes, tmp_path, capsys):
    config = ["evaluation.num_steps=3", "policy.config.first_frame=context"]
    words = ["generate", "a ball", "--policy", str(policy_folder), "-o", str(tmp_path / "next.mp4"), *config]
    assert cli.main(words) == 2
    assert "generate --context-clip" in capsys.readouterr().err
    assert cli.main([*words, "--context-clip", str(tmp_path / "none.mp4")]) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert cli.main([*words, "--context-clip", str(scenes[0].context_clip)]) == 0
    assert (tmp_path / "next.mp4").is_file()
