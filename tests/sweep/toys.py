"""Sweeps of a policy that takes milliseconds, and results that no run had to make."""

from pathlib import Path

import yaml
from optuna.study import Study

from rlnsp.evaluate import DISTANCE
from rlnsp.sweep import inline
from rlnsp.sweep import study as queue
from rlnsp.sweep.plan import Plan
from rlnsp.sweep.run import Sweep
from rlnsp.sweep.trial import Result

REWARDS = '''
import time
from dataclasses import dataclass
from pathlib import Path


def brightness(prompts, completions, **columns):
    return [float(clip.mean()) / 255 for clip in completions]


class Gated:
    """Brightness; from the fifth call on it waits as long as there is a file."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        gate: str = "none"

    def __init__(self, config):
        self.gate, self.calls = Path(config.gate), 0

    def __call__(self, samples):
        self.calls += 1
        while self.calls >= 5 and self.gate.exists():
            time.sleep(0.02)
        return [float(sample.frames.mean()) / 255 for sample in samples]
'''


GRID = ("trainer.group_size=2,4", "seeds=2")
"""Words of a sweep of four runs."""


def toy_config(folder: Path, reward: str = "brightness") -> Path:
    """A run's config of four short iterations, with a file of rewards beside it."""
    (folder / "toy_rewards.py").write_text(REWARDS)
    settings = {
        "policy": {"use": "rlnsp.testing:ToyPolicy"},
        "rewards": {"bright": {"use": f"{folder}/toy_rewards.py:{reward}"}},
        "algorithm": {"use": "grpo"},
        "sampler": {"num_steps": 4, "window": {"size": 2}},
        "trainer": {
            "num_iterations": 4,
            "scenes_per_iteration": 2,
            "group_size": 4,
            "learning_rate": 0.01,
            "save_every": 1,
            "report": False,
            "trackers": [],
        },
        "evaluation": {"num_scenes": 8, "keep_clips": 1},
    }
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def toy_plan(folder: Path, *words: str) -> Plan:
    """Of the toy config, as a command line would say it."""
    plan = Plan(inline.load(None, [f"config={toy_config(folder)}", "metric=bright", *words]))
    plan.check()
    return plan


def result(after: list[float], before: float = 0.5, scenes: str = "alike") -> Result:
    """Of a run that was never made."""
    n = len(after)
    return Result(
        scenes=scenes,
        before={"bright": [before] * n, DISTANCE: [None] * n},
        after={"bright": list(after), DISTANCE: [None] * n},
        means={},
        iterations=4,
        wall_s=60.0,
    )


def study_of(sweep: Sweep) -> Study:
    """The study of a sweep that was begun."""
    return queue.join(sweep.plan, queue.open_storage(sweep.plan.sweep, sweep.folder), sweep.name)
