"""Everything a run needs to go on as if it had never stopped: written aside, then renamed."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from rlnsp import optimizer_state
from rlnsp.ema import EMA
from rlnsp.protocols import Policy
from rlnsp.settings import ConfigError

STATE, TRAINED, OPTIMISER = "state.json", "trained.safetensors", "optimizer.safetensors"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What changes while a run trains.  Random numbers follow from (seed, iteration), scenes likewise."""

    policy: Policy
    optimizer: Optimizer
    ema: EMA | None
    """What is evaluated and ships, where it is not the trained weights."""
    old: EMA | None = None
    """What samples, where it is not the trained weights."""

    def averages(self) -> dict[str, EMA]:
        """Those that are kept, each by the name of its file."""
        found = {"ema.safetensors": self.ema, "old.safetensors": self.old}
        return {name: average for name, average in found.items() if average is not None}


def save(folder: Path, iteration: int, trained: Trained, record: Mapping[str, Any], keep_last: int) -> Path:
    """Write ``folder/step-<iteration>``, whole or not at all, then delete all but the ``keep_last`` newest.

    Args:
        folder: of the run's checkpoints.
        iteration: how many have been finished.
        trained: what to save.
        record: the run's own statistics; JSON.
        keep_last: how many checkpoints stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.partial"):
        shutil.rmtree(stale)
    final, aside = folder / f"step-{iteration}", folder / f"step-{iteration}.partial"
    aside.mkdir()
    save_file(_weights(trained.policy), aside / TRAINED)
    for name, average in trained.averages().items():
        save_file(average.average, aside / name)
    state, rest = optimizer_state.flatten(trained.optimizer)
    save_file(state, aside / OPTIMISER, metadata={"rest": json.dumps(rest)})
    trained.policy.save_adapter(aside / "adapter")
    files = {str(path.relative_to(aside)): path.stat().st_size for path in aside.rglob("*") if path.is_file()}
    # The list of files comes last: a checkpoint without it, or with another size than it says, is not intact.
    (aside / STATE).write_text(json.dumps({"iteration": iteration, "record": record, "files": files}))
    if final.exists():
        shutil.rmtree(final)
    aside.rename(final)
    for old in checkpoints(folder)[:-keep_last]:
        shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """Every checkpoint of a run, the oldest first, intact or not."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def newest_intact(folder: Path) -> Path | None:
    """The last checkpoint whose files are all there in full."""
    return next((path for path in reversed(checkpoints(folder)) if _is_intact(path)), None)


def load(checkpoint: Path, trained: Trained) -> tuple[int, dict[str, Any]]:
    """Put a checkpoint's weights and optimiser into ``trained``.

    Returns:
        The finished iterations and the record.

    Raises:
        ConfigError: it is of other weights than the policy trains, or lacks the average that the run keeps.
    """
    state = json.loads((checkpoint / STATE).read_text())
    saved, own = load_file(checkpoint / TRAINED), dict(trained.policy.named_trainable())
    shapes = {name: value.shape for name, value in saved.items()}
    if shapes != {name: value.shape for name, value in own.items()}:
        different = sorted(shapes.keys() ^ own.keys()) or sorted(n for n in own if own[n].shape != shapes[n])
        raise ConfigError(
            f"{checkpoint}: holds other trained weights than this policy (such as {different[0]}); "
            "resume with the run's own config"
        )
    for name in trained.averages():
        if not (checkpoint / name).is_file():
            raise ConfigError(
                f"{checkpoint}: lacks {name}, an average of weights that the config asks for; resume with "
                "the run's own trainer.ema_decay and algorithm"
            )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(saved[name])
    for name, average in trained.averages().items():
        average.load(load_file(checkpoint / name), state["iteration"])
    with safe_open(checkpoint / OPTIMISER, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        optimizer_state.restore(trained.optimizer, tensors, json.loads(file.metadata()["rest"]))
    return state["iteration"], state["record"]


def _weights(policy: Policy) -> dict[str, Tensor]:
    return {name: value.detach().contiguous() for name, value in policy.named_trainable()}


def _is_intact(checkpoint: Path) -> bool:
    try:
        files = json.loads((checkpoint / STATE).read_text())["files"]
        return all((checkpoint / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False
