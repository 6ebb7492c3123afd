from pathlib import Path

import pytest

from rlnsp import config

ROOT = Path(__file__).parents[1] / "configs"
RUNS = sorted(
    ROOT.glob("*.yaml")
)  # of stage 3; those in folders have schemas of their own, tested beside those


def test_there_are_configs():
    assert RUNS  # an empty parametrize below would pass silently


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_shipped_run_loads_by_its_name(path):
    assert config.shipped()[path.stem] == path
    config.load(path.stem)


def test_no_config_is_out_of_reach_of_a_name():
    assert {path.suffix for path in ROOT.rglob("*") if path.is_file()} == {".yaml"}
