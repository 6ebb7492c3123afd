"""A user's own class, function and coroutine, each trained with from the command line; see
test_example_package for an installed one."""

import json

import pytest

from rlnsp import cli

OWN = """
from dataclasses import dataclass

class Level:
    \"\"\"The mean brightness, scaled.\"\"\"
    @dataclass(frozen=True, kw_only=True)
    class Config:
        scale: float = 1.0
    def __init__(self, config):
        self.scale = config.scale
    def __call__(self, samples):
        return [self.scale * float(one.frames.mean()) / 255 for one in samples]

def level(prompts, completions, **columns):
    assert len(prompts) == len(completions) == len(columns["id"])
    return [float(clip.mean()) / 255 for clip in completions]

async def later(completions):
    return [1 - float(clip.mean()) / 255 for clip in completions]
"""
TOY = """
policy: {use: "rlnsp.testing:ToyPolicy"}
algorithm: {use: grpo}
rewards: {placeholder: {use: nsp_reward}}
trainer: {num_iterations: 3, scenes_per_iteration: 2, group_size: 4, learning_rate: 0.01, report: false}
evaluation: {num_scenes: 2, bootstrap: 100}
"""


@pytest.fixture
def train(tmp_path):
    """Trains with these flags; the iterations that it logged."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "toy.yaml").write_text(TOY)

    def run(*words):
        output = tmp_path / "run"
        flags = [word.replace("own.py", str(tmp_path / "own.py")) for word in words]
        assert (
            cli.main(["train", "--config", str(tmp_path / "toy.yaml"), "--output", str(output), *flags]) == 0
        )
        assert json.loads((output / "summary.json").read_text())["status"] == "done"
        lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if "samples" in line]
        assert len(steps) == 3
        return steps

    return run


def test_a_function_in_trls_form(train):
    steps = train("--reward", "own.py:level")
    assert len({step["reward/level"] for step in steps}) == 3


def test_a_class_with_settings_and_functions_are_mixed_and_each_is_logged_as_it_came(train):
    """Whatever its weight: 0 is logged all the same."""
    flags = ["own.py:Level=0.5", "own.py:level=3", "own.py:later=0"]
    steps = train(*(word for flag in flags for word in ("--reward", flag)), "rewards.Level.config.scale=4")
    for step in steps:
        assert step["reward/Level"] == pytest.approx(4 * step["reward/level"], rel=1e-5)
        assert step["reward/later"] == pytest.approx(1 - step["reward/level"], rel=1e-5)
