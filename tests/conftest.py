from pathlib import Path

import pytest
import torch

# Small tensors: a second thread costs more than it brings, and two cores are soon oversubscribed.
torch.set_num_threads(1)

WORLD = Path(__file__).parents[1] / "policies" / "world"


def pytest_collection_modifyitems(items):
    """Tests of the shipped weights wait for them."""
    if (WORLD / "manifest.json").is_file():
        return
    missing = pytest.mark.skip(reason="policies/world is not there; make it with: make world-weights")
    for item in items:
        if item.get_closest_marker("world_weights"):
            item.add_marker(missing)


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
