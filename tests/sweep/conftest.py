from collections import Counter

import pytest

from rlnsp.sweep import trial as trials
from rlnsp.sweep.run import Sweep
from rlnsp.sweep.trial import TrialFailed
from tests.sweep.toys import result, toy_plan


class Training:
    """Stands in for ``rlnsp.sweep.trial.train``."""

    def __init__(self):
        self.asked = Counter()
        self.environments = []
        self.failing = set()
        self.score = lambda run: 0.5 + run.trainer.group_size / 100 + run.seed / 1000
        self.on_the_way = {}

    def __call__(self, run, folder, metric, environment, stop, evaluated):
        self.asked[run.trainer.group_size, run.seed] += 1
        self.environments.append(environment)
        if (run.trainer.group_size, run.seed) in self.failing:
            raise TrialFailed(f"{folder}: ended with 1: broken on purpose")
        for iteration, value in self.on_the_way.get(run.trainer.group_size, {}).items():
            if evaluated(iteration, value):
                raise TrialFailed("ended with 143")
        return result([self.score(run)] * 8)


@pytest.fixture
def training(monkeypatch):
    made = Training()
    monkeypatch.setattr(trials, "train", made)
    return made


@pytest.fixture
def begin(tmp_path):
    """A sweep in the same folder each time, and what it said."""

    def begun(*words, folder="out"):
        said = []
        plan = toy_plan(tmp_path, "heartbeat_s=1", "storage=journal", *words)
        return Sweep(plan, tmp_path / folder, say=said.append), said

    return begun
