"""FSDP2 and ZeRO-3 on the CPU: two processes that hold the tiny policy's frozen weights together."""

import json

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.two_processes import DEEPSPEED, FSDP2, UNIFIED, ZERO2, ZERO3, launch
from policies.unified import Unified
from rlnsp.settings import (
    EvaluationConfig,
    RewardSlot,
    RunConfig,
    SamplerConfig,
    Slot,
    TrainerConfig,
    WindowConfig,
)
from rlnsp.trainer import train

REWARDS = """
import os, signal

def bright(samples):
    return [float(one.frames.mean()) for one in samples]

def bright_in_one(samples):
    return bright(samples) if os.environ["RANK"] == "0" else [0.0] * len(samples)

calls = 0

def kills(samples):
    global calls
    calls += 1
    if os.environ["RANK"] == "1" and calls == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return bright(samples)
"""


@pytest.fixture
def two(policy_folder, tmp_path):
    """Trains in two processes."""
    (tmp_path / "mine.py").write_text(REWARDS)

    def trained(name, reward, said, iterations=2, resume=False):
        config = RunConfig(
            policy=Slot(use="unified", config={"folder": str(policy_folder), "lora": {"rank": 2}}),
            rewards={"mine": RewardSlot(use=f"{tmp_path / 'mine.py'}:{reward}")},
            algorithm=Slot(use="grpo", config={"kl_coefficient": 0.0}),
            sampler=SamplerConfig(num_steps=3, window=WindowConfig(size=2)),
            trainer=TrainerConfig(
                num_iterations=iterations,
                scenes_per_iteration=2,
                group_size=3,
                micro_batch_size=4,
                updates_per_rollout=2,
                learning_rate=1e-3,
                trackers=[],
                report=False,
            ),
            evaluation=EvaluationConfig(num_scenes=2, bootstrap=10, keep_clips=0),
        )
        run = tmp_path / name
        processes = launch(
            train, (config, run, resume), run.with_suffix(".log"), 2, said, [UNIFIED, DEEPSPEED]
        )
        for process in processes:
            process.join(150)
        codes = [process.exitcode for process in processes]
        for process in processes:
            process.kill()  # one that hangs
        return run, codes, [run.with_suffix(f".log.{rank}").read_text() for rank in (0, 1)]

    return trained


def weights(run, step):
    return load_file(run / "checkpoints" / f"step-{step}" / "trained.safetensors")


def gradients(run, step):
    """AdamW's mean of them."""
    state = load_file(run / "checkpoints" / f"step-{step}" / "optimizer.safetensors")
    return {name: value for name, value in state.items() if name.endswith(".exp_avg")}


def rewards(run):
    """Of each iteration."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["reward"] for row in rows if "reward" in row]


def test_sharded_processes_train_as_whole_ones_do_though_one_has_nothing_to_learn(two):
    whole, codes, _ = two("whole", "bright_in_one", {})
    assert codes == [0, 0]
    sharded, codes, (said, _) = two("sharded", "bright_in_one", FSDP2)
    assert codes == [0, 0]
    assert "hold the frozen weights together" in said
    one, other = weights(whole, 2), weights(sharded, 2)
    assert all(one[name].equal(other[name]) for name in one)
    sharded, codes, (said, other) = two("by deepspeed", "bright_in_one", ZERO3)
    assert codes == [0, 0], (said, other)
    assert "hold the frozen weights together" in said
    assert rewards(sharded) == pytest.approx(rewards(whole), rel=1e-6)
    # DeepSpeed fetches weights to other places in memory, by which products are rounded.
    one, other = gradients(whole, 2), gradients(sharded, 2)
    largest = max(float(value.abs().max()) for value in one.values())
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-5 * largest)


def test_an_optimiser_whose_state_is_spread_steps_and_goes_on_as_a_whole_one_to_the_bit(two):
    whole, *_ = two("whole", "bright_in_one", {}, iterations=3)
    two("on", "bright_in_one", {}, iterations=1)
    for name, told in (("spread", ZERO2), ("on", ZERO2)):
        run, codes, (said, other) = two(name, "bright_in_one", told, iterations=3, resume=name == "on")
        assert codes == [0, 0], (said, other)
        for found in (weights, gradients):
            ours, expected = found(run, 3), found(whole, 3)
            assert ours.keys() == expected.keys()
            assert all(ours[key].equal(expected[key]) for key in expected)


@pytest.mark.parametrize("how", [FSDP2, ZERO2, ZERO3], ids=["FSDP2", "ZeRO-2", "ZeRO-3"])
def test_a_sharded_run_ends_and_is_saved_when_one_process_is_killed(two, how):
    run, codes, (said, _) = two("killed", "kills", how)
    assert codes == [1, -9]
    assert "another process of the run has ended" in said
    assert weights(run, 1)


def test_what_may_be_spread_are_the_blocks_and_then_the_dit(policy):
    *blocks, dit = policy.shards()
    assert [type(block).__name__ for block in blocks] == ["LTXVideoTransformerBlock"] * 2
    assert type(dit).__name__ == "LTXVideoTransformer3DModel"
    assert isinstance(policy, Unified)
