"""The command that a GPU is waited for, at a small size; and the paper's own model, without weights."""

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import paper_scale, paper_scale_page
from benchmarks.paper_scale import Session, run_of
from benchmarks.phases import PHASES
from benchmarks.random_unified import SPECIAL_IDS, bytes_for_qwen, random_unified
from policies.published import QWEN_7B
from policies.unified import Unified
from policies.unified.weights import load_model, save_policy
from rlnsp import config
from rlnsp.world import scenes


def settings_of(run, **own) -> Unified.Config:
    return replace(config.plugin_settings("policies", run.policy, "policy"), **own)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The run, and its parts' settings in a folder."""
    return run_of("small", tmp_path_factory.mktemp("parts") / "parts")


def test_the_papers_policy_is_built_in_bf16_with_an_adapter_in_fp32(tmp_path):
    run = run_of("paper", tmp_path)
    settings = settings_of(run, device="meta")
    model = random_unified(settings)
    sizes = {name: sum(v.numel() for v in part.parameters()) for name, part in model.named_children()}
    assert sizes.pop("connector") > 0
    assert sizes == {"comprehension": 8_292_166_656, "transformer": 1_923_385_472, "vae": 419_193_649}
    for name, part in model.named_children():
        expected = torch.float32 if name == "connector" else torch.bfloat16
        assert {value.dtype for value in part.parameters()} == {expected}
    with torch.device("meta"):
        policy = Unified(settings, model)
    trained = [value for _, value in policy.named_trainable()]
    assert {value.dtype for value in trained} == {torch.float32}
    assert sum(value.numel() for value in trained) == 2 * 23_855_104  # rank 32; docs/scale.md has 16
    assert policy.model.grid().num_tokens == 3510
    assert (policy.config.gradient_checkpointing, run.trainer.scenes_per_iteration) == (True, 1)
    assert list(run.rewards) == ["drawn", "motion"]
    assert torch.get_default_dtype() == torch.float32


def test_its_tensors_are_those_that_a_checkpoint_would_be_loaded_into(small, tmp_path):
    settings = settings_of(small)
    model = random_unified(settings)
    parts = ("comprehension", "transformer", "vae", "scheduler", "connector")
    own = {part: getattr(model, part) for part in parts}
    save_policy(tmp_path / "policy", geometry=model.geometry, **own)
    loaded = load_model(Unified.Config(folder=str(tmp_path / "policy"), dtype="bf16"))
    here, there = (
        {name: (value.dtype, tuple(value.shape)) for name, value in tensors}
        for tensors in ([*one.named_parameters(), *one.named_buffers()] for one in (model, loaded))
    )
    assert here == there
    texts = ["A ball rolls to the edge of a table."]
    same = [one.encode_texts(texts).embeds for one in (model, loaded)]
    assert torch.equal(same[0], same[1])
    again = random_unified(settings).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_qwens_special_tokens_have_their_own_ids_and_words_fit_its_vocabulary():
    tokenizer = bytes_for_qwen()
    ids = tokenizer("<|vision_start|><|image_pad|><|vision_end|> é<|im_end|>")["input_ids"]
    assert [ids[0], ids[1], ids[2], ids[-1]] == [151652, 151655, 151653, 151645]
    assert all(number < 256 for number in ids[3:-1])
    assert max(SPECIAL_IDS.values()) < QWEN_7B["vocab_size"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The command, whole, at the small size; what it wrote."""
    folder = tmp_path_factory.mktemp("measured")
    argv = ["--size", "small", "--output", str(folder), "--tflops", "0.1", "--iterations", "1"]
    assert paper_scale.main([*argv, "--seconds", "100000"]) == 0
    return folder


def test_the_command_checks_measures_and_compares(measured):
    found = json.loads((measured / "paper-scale.json").read_text())
    assert found["check"]["passed"]
    assert found["parameters"]["transformer"] < 1e6
    first, largest = found["settings"]
    assert first["sizes"] == {"group_size": 4, "rollout_batch_size": 2, "micro_batch_size": 2}
    assert largest["sizes"] == {"group_size": 8, "rollout_batch_size": 8, "micro_batch_size": 2}
    for one in (first, largest):
        assert set(one["seconds"]) == set(one["bytes"]) == set(PHASES)
        assert all(one["seconds"][phase] > 0 for phase in PHASES)
        assert all(one["bytes"][phase] > 0 for phase in ("encode", "rollout", "decode", "train"))
        assert one["metrics"]["grad_norm"] > 0
        assert 0.9 < one["plan"]["stays"] / one["stays"] < 1.1
        assert 0.5 < one["plan"]["bytes"]["train"] / one["bytes"]["train"] < 1.5
    # 4 samples: the first step and the mean of the second once, then two steps each; twice, by guidance.
    assert first["flops"]["rollout"] / (1 + 1 + 4 * 2) == pytest.approx(
        largest["flops"]["rollout"] / (1 + 1 + 8 * 2)
    )
    assert first["flops"]["train"] < first["flops"][paper_scale_page.AGAIN]


def test_a_small_model_is_said_to_be_one(measured):
    text = (measured / "paper-scale.md").read_text()
    assert text.startswith("# A small model, measured")
    assert "**A small stand-in for the paper's model**" in text
    assert "| first ratio | pass |" in text


def test_operations_are_those_that_an_iteration_does(small):
    """Against torch's own counter of what is really called."""
    session = Session(run=small, tflops=None, until=1e9, say=lambda _: None, save=lambda _: None)
    policy = Unified(session.settings, random_unified(session.settings))
    with FlopCounterMode(display=False) as reading:
        policy.encode(scenes("train", 1, 0))
    recorder = paper_scale.Recorder(policy)
    iterate = paper_scale.Iteration(paper_scale.Setting(policy=policy, run=small), recorder)
    with FlopCounterMode(display=False) as whole:
        iterate()
    flops = session._flops(small, recorder.calls)
    counted = flops["rollout"] + flops["decode"] + flops[paper_scale_page.AGAIN]
    assert whole.get_total_flops() - reading.get_total_flops() == pytest.approx(counted, rel=0.01)
