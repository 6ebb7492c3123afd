"""LTX-Video and Wan as policies: what holds for both."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel

from benchmarks.random_wan import text_sizes
from policies.ltx_video import LTXVideo
from policies.settings import Lora, Source
from policies.wan import Wan
from rlnsp.config import plugin_settings
from rlnsp.protocols import EncodesVideo
from rlnsp.settings import ConfigError, Slot
from rlnsp.testing import check_policy
from tests.policies.pipelines import SCENES, SIZE, make_pipeline_folder

CLASSES = {"ltx_video": LTXVideo, "wan": Wan}
LORA = Lora(rank=2, alpha=4.0)


@pytest.fixture(params=sorted(CLASSES))
def name(request):
    return request.param


@pytest.fixture
def folder(name, pipeline_folders):
    return pipeline_folders[name]


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture
def make(name, folder):
    """The policy, with settings of its own."""

    def made(where=folder, **settings):
        config = CLASSES[name].Config(folder=str(where), **{"lora": LORA, **SIZE, **settings})
        return CLASSES[name](config)

    return made


@pytest.fixture
def trained(make):
    """With an adapter that does something, as after some steps of RL."""
    policy = make()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for _, parameter in policy.named_trainable():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return policy


def inputs(policy):
    x = policy.noise(2, torch.Generator().manual_seed(1))
    return x, torch.tensor([0.9, 0.4]), policy.encode(SCENES)


def test_it_keeps_to_the_seam_fresh_and_trained(make, trained):
    for policy in (make(), trained, make(dtype="bf16", gradient_checkpointing=True)):
        check_policy(policy, SCENES, tolerance=0.05 if policy.config.dtype == "bf16" else 1e-3)
        assert isinstance(policy, EncodesVideo)


def test_the_velocity_depends_on_every_argument(trained):
    x, sigma, condition = inputs(trained)
    with torch.no_grad():
        base = trained.velocity(x, sigma, condition)
        for other in (
            trained.velocity(x.flip(0), sigma, condition),
            trained.velocity(x, sigma.flip(0), condition),
            trained.velocity(x, sigma, condition.take(torch.tensor([1, 0]))),
            trained.velocity(x, sigma, condition, 2.0),
        ):
            assert (other - base).abs().amax((1, 2)).min() > 1e-4


def test_gradient_reaches_every_part_of_the_adapter_and_nothing_else(trained):
    trained.velocity(*inputs(trained), 3.0).square().sum().backward()
    named = dict(trained.named_trainable())
    # 2 blocks, each with 2 x (q, k, v, out) and 2 feed-forward layers, each with A and B
    assert len(named) == 2 * (2 * 4 + 2) * 2
    for key, parameter in trained.model.named_parameters():
        if key in named:
            assert parameter.grad.abs().max() > 0, key
        else:
            assert parameter.grad is None, key


def test_the_template_and_the_negative_prompt_are_what_the_text_encoder_reads(make):
    plain, asked = make(), make(template="so {}", negative_prompt="a ball rolls")
    a, b = plain.encode(SCENES), asked.encode(SCENES)
    assert not torch.equal(a.embeds, b.embeds)
    assert torch.equal(b.null_embeds, a.embeds[:1])  # word for word, without the template
    assert torch.equal(b.null_mask, a.mask[:1])
    scene = replace(SCENES[0], context="so a ball rolls")
    assert torch.equal(plain.encode([scene]).embeds, b.embeds[:1])


def test_a_context_over_the_limit_is_refused_and_not_cut_off(make):
    scene = replace(SCENES[0], context="ball " * 6)  # a token a letter, one for each space before a word
    with pytest.raises(ConfigError, match=r"31 tokens are more than the 24 of policy.config.max_length"):
        make().encode([scene])


def test_the_adapter_is_read_by_peft_alone_and_comes_back_bit_for_bit(make, trained, tmp_path):
    trained.save_adapter(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    again, bare = make(), make()
    again.load_adapter(tmp_path)
    bare.model.transformer = PeftModel.from_pretrained(bare.model.transformer.unload(), str(tmp_path))
    expected = trained.velocity(*inputs(trained))
    for loaded in (again, bare):
        assert torch.equal(loaded.velocity(*inputs(loaded)), expected)


def test_gradient_checkpointing_gives_the_same_gradient(make):
    plain, saving = make(), make(gradient_checkpointing=True)
    for policy in (plain, saving):
        policy.velocity(*inputs(policy)).square().sum().backward()
    for (key, a), (_, b) in zip(plain.named_trainable(), saving.named_trainable(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=key)


def test_bf16_holds_frozen_weights_in_bf16_and_trains_in_fp32(make):
    exact, half = make(), make(dtype="bf16")
    v = half.velocity(*inputs(half), 2.0)
    assert v.dtype == torch.float32
    assert {p.dtype for _, p in half.named_trainable()} == {torch.float32}
    assert next(half.model.text_encoder.parameters()).dtype == torch.bfloat16
    assert 0 < (v - exact.velocity(*inputs(exact), 2.0)).abs().max() < 0.3
    assert half.decode(half.noise(1, torch.Generator()), torch.Generator()).frames.shape == (1, 5, 32, 64, 3)


def test_a_clips_latents_are_drawn_round_their_mean(make):
    policy = make()
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 32, 64, 3), dtype=np.uint8)
    mean = policy.encode_video(frames)
    assert mean.shape == (2, *policy.noise(1, torch.Generator()).shape[1:])
    draws = [policy.encode_video(frames, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], mean)
    with pytest.raises(ConfigError, match="a clip has 4 frames of 32x64, but the policy makes 5 of 32x64"):
        policy.encode_video(frames[:, :4])


def test_decoding_in_parts_changes_nothing_but_rounding(make):
    whole, parts = make(), make(decode_batch_size=2)
    x = whole.noise(3, torch.Generator().manual_seed(1))
    one, other = (p.decode(x, torch.Generator()).frames.astype(int) for p in (whole, parts))
    np.testing.assert_allclose(one, other, rtol=0, atol=1)


def test_a_part_can_come_from_elsewhere(name, make, tmp_path):
    other = make_pipeline_folder(name, tmp_path / "other", seed=1)
    mixed = make(
        vae=Source(path=str(other), subfolder="vae"), scheduler=Source(path=str(other / "scheduler"))
    )
    theirs, ours = make(other).model.vae.state_dict(), make().model.vae.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in mixed.model.vae.state_dict().items())
    assert not all(torch.equal(value, theirs[key]) for key, value in ours.items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_frames": 6}, r"num_frames=6: this VAE wants 4 k \+ 1"),
        ({"height": 30}, "height=30: this VAE and DiT want a multiple of"),
        ({"width": 0}, "width=0: must be positive"),
        ({"template": "no place"}, "must hold {} once"),
        ({"lora": Lora(targets=["to_ou.0"])}, r"'to_ou.0' matches no linear layer.*Did you mean 'to_out.0'"),
    ],
)
def test_settings_that_the_weights_cannot_meet_are_refused(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_parts_that_do_not_fit_are_refused(make, tmp_path):
    kind = type(make().model.text_encoder)
    kind(kind.config_class(**text_sizes(16))).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="the text encoder's width is 16, the transformer's .* 24"):
        make(text_encoder=Source(path=str(tmp_path)))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


DAMAGE = [
    ("", shutil.rmtree, "does not exist"),
    ("model_index.json", lambda p: p.unlink(), "model_index.json is missing"),
    ("model_index.json", lambda p: p.write_text("{"), "not readable as JSON"),
    (
        "model_index.json",
        lambda p: p.write_text('{"_class_name": "Other"}'),
        "a Other, but this policy reads",
    ),
    ("vae", shutil.rmtree, "this policy's vae is missing"),
    ("transformer/config.json", lambda p: p.unlink(), "transformer/config.json is missing"),
    ("scheduler/scheduler_config.json", lambda p: p.unlink(), "scheduler_config.json is missing"),
    ("tokenizer/tokenizer.json", lambda p: p.unlink(), "tokenizer.json is missing"),
    ("tokenizer/tokenizer_config.json", lambda p: p.write_text("[]"), "a JSON object was expected"),
    ("text_encoder/model.safetensors", truncate, "model.safetensors is damaged"),
    ("transformer/diffusion_pytorch_model.safetensors", lambda p: p.unlink(), "no .safetensors file"),
]


@pytest.mark.parametrize(("what", "damage", "message"), DAMAGE, ids=[f"{w}-{m[:20]}" for w, _, m in DAMAGE])
def test_a_damaged_folder_is_one_line_that_names_the_file(make, copy, what, damage, message):
    damage(copy / what)
    with pytest.raises(ConfigError, match=message) as caught:
        make(copy)
    assert "\n" not in str(caught.value)
    assert str(copy) in str(caught.value)


def test_a_missing_weight_is_an_error_and_not_a_random_number(make, copy):
    from safetensors.torch import load_file, save_file

    path = copy / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    del tensors["encoder.final_layer_norm.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"text_encoder's weights lack 'encoder.final_layer_norm.weight'"):
        make(copy)


def test_a_hubs_id_that_was_never_downloaded_is_refused_without_asking_anybody(make, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="some/pipeline: cannot load the pipeline") as caught:
        make("some/pipeline", local_files_only=True)
    assert "\n" not in str(caught.value)


def test_the_folder_must_be_given(name):
    with pytest.raises(ConfigError, match="policy.config: missing: folder"):
        plugin_settings("policies", Slot(use=name), "policy")


def test_importing_the_plug_ins_is_cheap():
    code = "import sys, policies.ltx_video, policies.wan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
