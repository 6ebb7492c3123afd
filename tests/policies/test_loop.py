"""The loop of stage 3 on the unified model itself, at a tiny size."""

import json

import pytest
from safetensors.torch import load_file

from policies.settings import Lora
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
from rlnsp.testing import check_policy
from rlnsp.trainer import train
from rlnsp.world import scenes

REWARD = """
def brightness(completions):
    return [float(clip.mean()) for clip in completions]
"""
TRAINED = {"train_connector": True, "train_queries": True}
LORA = {"rank": 2, "alpha": 4.0}


@pytest.mark.parametrize("parts", [{}, TRAINED])
def test_the_unified_policy_keeps_to_the_seam(policy_folder, parts):
    config = Unified.Config(folder=str(policy_folder), lora=Lora(rank=2, alpha=4.0), **parts)
    check_policy(Unified(config), scenes("train", 2, 0))


# torch says that its RMSNorm is slower under autocast
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize(
    ("parts", "trainer", "sampler"),
    [
        ({}, {"precision": "bf16"}, {"guidance_scale": 2.0}),
        (TRAINED, {"updates_per_rollout": 2, "micro_batch_size": 5}, {}),
        ({**TRAINED, "dtype": "bf16"}, {"micro_batch_size": 3, "ema_decay": 0.5}, {"same_noise": False}),
    ],
)
def test_the_loop_trains_the_unified_policy_and_goes_on_bit_for_bit(
    policy_folder, tmp_path, parts, trainer, sampler
):
    (tmp_path / "mine.py").write_text(REWARD)

    def config(num_iterations):
        settings = {"scenes_per_iteration": 2, "group_size": 3, "learning_rate": 1e-3, **trainer}
        settings |= {"trackers": [], "report": False}  # which take longer than such a run
        return RunConfig(
            policy=Slot(
                use="policies.unified:Unified", config={"folder": str(policy_folder), "lora": LORA, **parts}
            ),
            rewards={"brightness": RewardSlot(use=f"{tmp_path / 'mine.py'}:brightness")},
            algorithm=Slot(use="rlnsp.algorithms.grpo:GRPO", config={"clip": 0.5, "kl_coefficient": 0.01}),
            sampler=SamplerConfig(num_steps=3, window=WindowConfig(start=0, size=2), **sampler),
            trainer=TrainerConfig(num_iterations=num_iterations, **settings),
            evaluation=EvaluationConfig(num_scenes=2, bootstrap=10),
        )

    straight, halves = tmp_path / "straight", tmp_path / "halves"
    assert train(config(2), straight) == 0
    assert train(config(1), halves) == 0
    assert train(config(2), halves, resume=True) == 0
    one, other = (
        load_file(run / "checkpoints" / "step-2" / "trained.safetensors") for run in (straight, halves)
    )
    assert all(one[name].equal(other[name]) for name in one)
    lines = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    ratios = [line["log_ratio_max"] for line in lines if "ratio" in line]
    if trainer.get("updates_per_rollout", 1) > 1:
        assert min(ratios) > 0  # of the second update: it moves
    else:
        assert max(ratios) == 0
    adapter = load_file(straight / "adapter" / "adapter_model.safetensors")
    assert any("lora_B" in name and bool(value.any()) for name, value in adapter.items())
