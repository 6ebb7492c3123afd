from functools import partial

import pytest
import torch

from tests.toy_runs import toy_config

# Small tensors: a second thread costs more than it brings, and two cores are soon oversubscribed.
torch.set_num_threads(1)


@pytest.fixture
def toy(tmp_path):
    """A config of a run that takes a second."""
    return partial(toy_config, tmp_path)


@pytest.fixture
def plugin_file(tmp_path):
    """A user's own file of plug-ins, outside every package."""
    path = tmp_path / "mine.py"
    path.write_text(
        '''
from dataclasses import dataclass


class Mine:
    """Rewards nothing."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        target: float = 0.5
        sizes: tuple[int, int] = (1, 2)

        def __post_init__(self):
            if not 0 <= self.target <= 1:
                raise ValueError(f"target must be in [0, 1]; got {self.target}")

    def __init__(self, config):
        self.config = config

    def __call__(self, samples):
        return [0.0 for _ in samples]


def plain(prompts, completions, **columns):
    return [0.0 for _ in completions]
'''
    )
    return path
