"""The command that a GPU is waited for, at a small size; and the paper's own model, without weights."""

import json
from dataclasses import replace
from types import SimpleNamespace

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
    assert list(run.rewards) == ["motion", "temporal_flicker"]
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
    again = random_unified(settings)
    assert torch.equal(again.transformer.proj_in.weight, model.transformer.proj_in.weight)


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


def test_the_largest_group_fits_by_the_plan_and_is_done_in_time(small):
    session = Session.__new__(Session)
    session.run = small

    def plan(run):
        size = run.trainer.rollout_batch_size
        assert run.trainer.group_size == size == 4 * run.trainer.micro_batch_size
        return SimpleNamespace(fits=size <= 64, seconds={"rollout": size, "training": 1.0})

    session.plan = plan  # pyright: ignore[reportAttributeAccessIssue]
    for seconds, slower, most, expected in (
        (1e6, 1.0, 1024, 64),
        (40.0, 1.0, 1024, 32),
        (40.0, 2.0, 1024, 16),
        (1e6, 1.0, 16, 16),
        (5.0, 1.0, 1024, None),
    ):
        session.until = paper_scale.time.perf_counter() + seconds
        run = session.largest(slower, most)
        assert (run and run.trainer.group_size) == expected


FOUND = {
    "size": "paper",
    "tflops": 100.0,
    "environment": {
        "devices": ["A GPU"],
        "torch_threads": 1,
        "platform": "-",
        "packages": {"torch": "2"},
    },
    "check": {"passed": False, "failed": ["drift"], "seconds": 60.0, "checks": []},
    "settings": [
        {
            "name": "one",
            "sizes": {"group_size": 16},
            "samples": 16,
            "iterations": [{}],
            "seconds": {"encode": 1.0, "rollout": 20.0, "decode": 5.0, "score": 4.0, "train": 10.0},
            "stays": 20 * 2**30,
            "bytes": {"encode": 0, "rollout": 8 * 2**30, "decode": 2**30, "score": 2**30, "train": 2**30},
            "reserved": None,
            "flops": {"rollout": 1e15, "train": 4e14, paper_scale_page.AGAIN: 6e14},
            "plan": {
                "stays": 21 * 2**30,
                "bytes": {"rollout": 10 * 2**30},
                "seconds": {"rollout": 25.0},
                "peak": 31 * 2**30,
            },
        },
        {"name": "two", "sizes": {}, "out_of_memory": "CUDA", "plan": {"peak": 90 * 2**30}},
    ],
}


def test_the_page_has_shares_of_the_peak_and_the_plans_error():
    text = paper_scale_page.section(FOUND)
    # 1e15 operations in 20 s are half of 100 TFLOP/s; 4e14 in 10 s are 40%, and 60% with what is done twice.
    assert "| rollout | 20 | 25 | 1e+03 | 50.0% | 8 | 10 | +25% |" in text
    assert "40.0% (60.0% with what is computed again)" in text
    assert "40 s an iteration of 16 samples (0.4 a second" in text
    assert "Most memory 28 GiB (planned 31)" in text
    assert "wrong: drift" in text
    assert "**Out of memory**, where the plan said 90.0 GiB" in text
    assert "on A GPU, 100 TFLOP/s" in text


def test_docs_are_filled_from_the_papers_size_alone(tmp_path, capsys):
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "scale.md"
    opening, closing = paper_scale_page.MARKS
    shipped = (paper_scale.ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    page.write_text(f"before\n{opening}{shipped.partition(opening)[2]}", encoding="utf-8")
    assert closing in page.read_text()
    with pytest.raises(ValueError, match="of size small"):
        paper_scale_page.fill_docs(tmp_path, {**FOUND, "size": "small"})
    paper_scale_page.fill_docs(tmp_path, FOUND)
    assert page.read_text().startswith(f"before\n{opening}\n{paper_scale_page.section(FOUND)}\n{closing}")
    assert json.loads((tmp_path / "docs" / "benchmarks" / "paper-scale.json").read_text()) == FOUND
    for argv, says in (
        (["--size", "small"], "wants --output"),
        (["--size", "paper", "--output", str(tmp_path)], "wants a CUDA device, and --tflops"),
    ):
        with pytest.raises(SystemExit):
            paper_scale.main(argv)
        assert says in capsys.readouterr().err
