"""The plug-in: adapter, reference, what is trained, and its own save and load."""

import json
from dataclasses import replace

import pytest
import torch
from peft import PeftModel

from policies.settings import Lora, Source
from policies.unified import Unified
from policies.unified.weights import load_transformer
from rlnsp.types import Scene
from tests.policies.tiny import make_model

SCENES = [Scene(id="a", context="a ball rolls"), Scene(id="b", context="the lamp is lit")]


def inputs(policy):
    x = policy.noise(2, torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, torch.tensor([0.9, 0.4]), policy.encode(SCENES)


def test_a_fresh_adapter_changes_nothing(policy):
    x, sigma, condition = inputs(policy)
    assert torch.equal(policy.velocity(x, sigma, condition), make_model().velocity(x, sigma, condition))


def test_reference_is_the_bare_model_bit_for_bit_and_ends_with_its_block(trained_policy):
    x, sigma, condition = inputs(trained_policy)
    trained = trained_policy.velocity(x, sigma, condition)
    bare = make_model().velocity(x, sigma, condition)
    with trained_policy.reference():
        assert torch.equal(trained_policy.velocity(x, sigma, condition), bare)
    assert torch.equal(trained_policy.velocity(x, sigma, condition), trained)
    assert (trained - bare).abs().max() > 1e-3


def test_gradient_reaches_every_trainable_parameter_and_no_other(trained_policy):
    x, sigma, condition = inputs(trained_policy)
    trained_policy.velocity(x, sigma, condition).square().sum().backward()
    named = dict(trained_policy.named_trainable())
    # 2 blocks, each with 2 x (q, k, v, out) and 2 feed-forward layers, each with A and B
    assert len(named) == 2 * (2 * 4 + 2) * 2
    assert all("lora_" in name for name in named)
    for name, parameter in trained_policy.model.named_parameters():
        if name in named:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name


def test_the_saved_adapter_is_read_by_peft_alone(trained_policy, policy_folder, tmp_path):
    x, sigma, condition = inputs(trained_policy)
    trained_policy.save_adapter(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    bare = load_transformer(Source(path=str(policy_folder / "transformer")))
    model = make_model()
    model.transformer = PeftModel.from_pretrained(bare, str(tmp_path))  # pyright: ignore[reportArgumentType]
    expected = trained_policy.velocity(x, sigma, condition)
    assert torch.equal(model.velocity(x, sigma, condition), expected)


def test_an_adapter_comes_back_bit_for_bit(trained_policy, tmp_path):
    trained_policy.save_adapter(tmp_path / "adapter")
    fresh = Unified(trained_policy.config)
    fresh.load_adapter(tmp_path / "adapter")
    for (name, saved), (_, loaded) in zip(
        trained_policy.named_trainable(), fresh.named_trainable(), strict=True
    ):
        assert torch.equal(saved, loaded), name
        assert loaded.requires_grad


def test_trained_connector_and_queries_are_saved_beside_the_adapter_and_have_a_reference(policy, tmp_path):
    config = replace(policy.config, train_connector=True, train_queries=True)
    both, first = Unified(config), policy.encode(SCENES)
    assert both.encodes_with_trained_parts()
    assert not policy.encodes_with_trained_parts()
    named = dict(both.named_trainable())
    assert {"connector.queries", "connector.scale", "connector.proj_in.weight"} <= set(named)
    both.encode(SCENES).embeds.sum().backward()
    assert named["connector.queries"].grad is not None
    with torch.no_grad():
        named["connector.scale"].mul_(2)
        named["connector.queries"].add_(1)
    moved = both.encode(SCENES).embeds
    assert not torch.equal(moved, first.embeds)
    with both.reference():
        assert torch.equal(both.encode(SCENES).embeds, first.embeds)
    both.save_adapter(tmp_path)
    for loaded in (Unified(config), policy):  # whether or not it goes on training them
        loaded.load_adapter(tmp_path)
        assert torch.equal(loaded.encode(SCENES).embeds, moved)
        with loaded.reference():
            assert torch.equal(loaded.encode(SCENES).embeds, first.embeds)


@pytest.mark.parametrize("part", ["connector", "queries"])
def test_connector_and_queries_are_trained_apart(policy, part):
    config = replace(policy.config, train_connector=part == "connector", train_queries=part == "queries")
    names = {name for name, _ in Unified(config).named_trainable() if name.startswith("connector")}
    assert ("connector.queries" in names) == (part == "queries")
    assert ("connector.scale" in names) == (part == "connector")


def test_each_lora_target_must_match_a_layer(policy_folder):
    lora = Lora(targets=["to_q", "to_ou.0"])
    with pytest.raises(ValueError, match=r"'to_ou.0' matches no linear layer.*mean 'to_out.0'.*net.0.proj"):
        Unified(Unified.Config(folder=str(policy_folder), lora=lora))


def test_the_adapter_is_where_the_targets_say(policy_folder):
    policy = Unified(Unified.Config(folder=str(policy_folder), lora=Lora(rank=3, targets=["net.2"])))
    named = dict(policy.named_trainable())
    assert len(named) == 2 * 2
    assert all("ff.net.2.lora_" in name for name in named)
    assert {min(p.shape) for p in named.values()} == {3}


def test_the_adapters_seed_alone_decides_its_start(policy_folder):
    state = torch.random.get_rng_state()
    configs = [Unified.Config(folder=str(policy_folder), lora=Lora(rank=2, seed=s)) for s in (0, 0, 1)]
    one, same, other = (next(p for _, p in Unified(c).named_trainable()) for c in configs)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_an_adapter_of_another_rank_is_refused(trained_policy, policy_folder, tmp_path):
    trained_policy.save_adapter(tmp_path)
    other = Unified(Unified.Config(folder=str(policy_folder), lora=Lora(rank=3, alpha=4.0)))
    with pytest.raises(ValueError, match=r"adapter has r=2, the policy 3. Set policy.config.lora"):
        other.load_adapter(tmp_path)


def test_a_folder_without_an_adapter_is_refused(policy, tmp_path):
    with pytest.raises(ValueError, match=r"no adapter_config.json"):
        policy.load_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({}))
    with pytest.raises(ValueError, match=r"adapter_model.safetensors is missing"):
        policy.load_adapter(tmp_path)


def test_bf16_holds_frozen_weights_in_bf16_and_trains_in_fp32(policy, policy_folder):
    half = Unified(replace(policy.config, dtype="bf16"))
    x, sigma, condition = inputs(half)
    v = half.velocity(x, sigma, condition, 2.0)
    assert v.dtype == condition.embeds.dtype == torch.float32
    v.sum().backward()
    assert {p.dtype for _, p in half.named_trainable()} == {torch.float32}
    assert {p.dtype for p in half.model.comprehension.parameters()} == {torch.bfloat16}
    exact = policy.velocity(x, sigma, condition, 2.0)
    assert 0 < (v - exact).abs().max() < 0.2
    assert half.decode(x, torch.Generator()).frames.shape == (2, 5, 32, 64, 3)


def test_an_optimiser_step_is_seen_at_once_in_bf16_even_inside_a_foreign_autocast(policy):
    """Autocast caches low-precision copies of fp32 weights; one that outlives a step hides the step."""
    half = Unified(replace(policy.config, dtype="bf16"))
    x, sigma, condition = inputs(half)
    with torch.autocast("cpu", torch.bfloat16):
        before = half.velocity(x, sigma, condition).detach()
        half.velocity(x, sigma, condition).sum().backward()
        with torch.no_grad():
            for _, parameter in half.named_trainable():
                parameter.add_(0.1)
        assert (half.velocity(x, sigma, condition) - before).abs().max() > 1e-3


def test_gradient_checkpointing_gives_the_same_gradient(policy):
    x, sigma, condition = inputs(policy)
    saving = Unified(replace(policy.config, gradient_checkpointing=True))
    for one in (policy, saving):
        one.velocity(x, sigma, condition).square().sum().backward()
    for (name, a), (_, b) in zip(policy.named_trainable(), saving.named_trainable(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "fp8"}, "dtype='fp8'"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"train_queries": True, "offload": ["comprehension"]}, "offload: comprehension cannot wait"),
        ({"folder": None}, "policy.config.num_frames: without policy.config.folder"),
    ],
)
def test_settings_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        Unified(Unified.Config(**settings))


def test_parts_that_wait_are_fetched_for_their_use_and_change_nothing(policy, policy_folder, monkeypatch):
    x, _, condition = inputs(policy)
    frames = policy.decode(x, torch.Generator()).frames
    waiting = Unified(
        Unified.Config(folder=str(policy_folder), lora=policy.config.lora, offload=["comprehension", "vae"])
    )
    moved = []
    for name in ("comprehension", "vae", "transformer"):
        part = waiting.model.get_submodule(name)
        monkeypatch.setattr(part, "to", lambda where, name=name: moved.append((name, str(where))))
    assert torch.equal(waiting.encode(SCENES).embeds, condition.embeds)
    assert moved == [("comprehension", "cpu")] * 2  # there, which is the CPU here too, and back
    moved.clear()
    assert (waiting.decode(x, torch.Generator()).frames == frames).all()
    assert torch.equal(waiting.encode_video(frames), policy.encode_video(frames))
    assert moved == [("vae", "cpu")] * 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "lora.rank=0"),
        ({"alpha": 0.0}, "lora.alpha"),
        ({"targets": []}, "lora.targets is empty"),
    ],
)
def test_adapter_settings_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        Lora(**settings)
