"""Runs of the toy policy, a second each, and what they leave."""

import json
from pathlib import Path
from typing import Any

from rlnsp.settings import (
    EvaluationConfig,
    RewardSlot,
    RunConfig,
    SamplerConfig,
    Slot,
    TrainerConfig,
    WindowConfig,
)

REWARDS = """
import time

def brightness(prompts, completions, **columns):
    return [float(clip.mean()) / 255 for clip in completions]

def of_latents(latents):
    return [float(one.mean()) for one in latents]

def flat(samples):
    return [0.5 for _ in samples]

def broken(samples):
    raise OSError("judge is away")

def slow(samples):
    time.sleep(0.05)
    return [float(one.frames.mean()) / 255 for one in samples]

class Picky:
    def __call__(self, samples):
        return [0.0 for _ in samples]
    def check_scenes(self, scenes):
        raise ValueError("cannot read these")
"""


def toy_config(folder: Path, reward: str = "brightness", **given: Any) -> RunConfig:
    """A config whose rewards lie in ``folder``; ``given`` are the trainer's, or one of those below."""
    (folder / "mine.py").write_text(REWARDS)
    own: dict[str, Any] = {
        "weight": 1.0,
        "seed": 0,
        "evaluation": None,
        "algorithm": "grpo",
        "window": WindowConfig(size=2),
    }
    own |= {name: given.pop(name) for name in own.keys() & given.keys()}
    settings = {
        "num_iterations": 4,
        "scenes_per_iteration": 2,
        "group_size": 6,
        "learning_rate": 1e-2,
        "save_every": 2,
        "report": False,  # takes longer than such a run
    }
    return RunConfig(
        seed=own["seed"],
        policy=Slot(use="rlnsp.testing:ToyPolicy"),
        rewards={"mine": RewardSlot(use=f"{folder / 'mine.py'}:{reward}", weight=own["weight"])},
        algorithm=Slot(use=own["algorithm"]),
        sampler=SamplerConfig(num_steps=5, window=own["window"]),
        trainer=TrainerConfig(**{**settings, **given}),
        evaluation=own["evaluation"] or EvaluationConfig(num_scenes=8, bootstrap=100),
    )


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def numbers(metrics):
    """Without what depends on the clock."""
    return [{k: v for k, v in line.items() if "seconds" not in k} for line in metrics]
