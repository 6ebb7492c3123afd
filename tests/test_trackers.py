import sys
from types import ModuleType

import pytest
from accelerate import PartialState

from rlnsp import config, trackers
from rlnsp.config import ConfigError


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_whose_package_is_missing_is_refused_with_the_command_that_installs_it(
    name, tmp_path, monkeypatch
):
    monkeypatch.setattr(trackers, "find_spec", lambda wanted: None if wanted == name else object())
    with pytest.raises(ConfigError, match=f"{name} is not installed; run: python -m pip install {name}"):
        trackers.make(["tensorboard", name], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_trackers_are_chosen_by_name_and_others_refused():
    assert config.load("world").trainer.trackers == ["tensorboard"]
    chosen = config.load("world", ["trainer.trackers=[wandb,trackio]"])
    assert chosen.trainer.trackers == ["wandb", "trackio"]
    with pytest.raises(ConfigError, match=r"trainer\.trackers.*'weights'.*tensorboard"):
        config.load("world", ["trainer.trackers=[weights]"])


def test_a_run_is_called_as_its_folder_is_and_gets_metrics_alone(tmp_path, monkeypatch):
    """A stand-in for wandb's module keeps what it is called with."""
    said = []

    class Run:
        def log(self, values, step=None):
            said.append((values, step))

        def finish(self):
            said.append("finished")

    module = ModuleType("wandb")
    vars(module)["init"] = lambda **settings: said.append(settings) or Run()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(trackers, "find_spec", lambda wanted: module)
    (tracker,) = trackers.make(["wandb", "wandb"], tmp_path / "mine")
    PartialState(cpu=True)
    tracker.start()
    tracker.log({"reward": 0.5}, step=3)
    tracker.finish()
    assert said == [
        {"project": "rlnsp", "name": "mine", "dir": str(tmp_path / "mine")},
        ({"reward": 0.5}, 3),
        "finished",
    ]
