"""Everything a run needs to go on as if it had never stopped: written aside, then renamed.

A checkpoint is a folder.  The list of its files, each with its SHA-256, is written last: without it, or with
a file that is not as listed, a checkpoint is damaged and passed over.
"""

import copy
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from rlnsp import optimizer_state
from rlnsp.atomic import writing
from rlnsp.ema import EMA
from rlnsp.protocols import Policy
from rlnsp.settings import ConfigError

STATE, TRAINED, OPTIMISER = "state.json", "trained.safetensors", "optimizer.safetensors"
CONFIG, FILES = "config.yaml", "files.json"


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

    def shipped(self) -> AbstractContextManager[None]:
        """While open, the policy has the weights that are evaluated and ship: the average, if one is kept."""
        return self.ema.applied() if self.ema else nullcontext()

    @contextmanager
    def whole_or_not(self) -> Iterator[None]:
        """If the block is left by an exception, all that trains is put back as it was."""
        own = dict(self.policy.named_trainable())
        weights = copy.deepcopy(_weights(self.policy))
        averages = [(one, one.updates, copy.deepcopy(one.average)) for one in self.averages().values()]
        state = copy.deepcopy(self.optimizer.state_dict())
        try:
            yield
        except BaseException:
            with torch.no_grad():
                for name, value in own.items():
                    value.copy_(weights[name])
            for average, updates, values in averages:
                average.load(values, updates)
            self.optimizer.load_state_dict(state)
            raise


def save(folder: Path, iteration: int, trained: Trained, record: Mapping[str, Any], config: str) -> Path:
    """Write ``folder/step-<iteration>``, whole or not at all; one that is there and intact is left as it is.

    Args:
        folder: of the run's checkpoints.
        iteration: how many have been finished.
        trained: what to save.
        record: the run's own statistics; JSON.
        config: the run's settings, as YAML.  With them ``open_policy`` opens the checkpoint's folder.

    Raises:
        WriteFailed: the system refused it; nothing is left of it.
    """
    final, aside = folder / f"step-{iteration}", folder / f"step-{iteration}.partial"
    if final.is_dir() and fault(final) is None:
        return final
    with writing(final):
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("*.partial"):
            shutil.rmtree(stale)
        try:
            aside.mkdir()
            _fill(aside, iteration, trained, record, config)
            if final.exists():
                shutil.rmtree(final)  # damaged
            aside.rename(final)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        _sync(folder)
    return final


def prune(folder: Path, newest: int, keep_last: int, best: Collection[int] = ()) -> None:
    """Delete all checkpoints but the last ones up to ``newest``, and those after ``best`` iterations.

    A later one than ``newest`` is a damaged one that the run went back behind.
    """
    found = {iteration_of(path): path for path in checkpoints(folder)}
    kept = {*[iteration for iteration in found if iteration <= newest][-keep_last:], *best}
    with writing(folder):
        for iteration in found.keys() - kept:
            shutil.rmtree(found[iteration])


def checkpoints(folder: Path) -> list[Path]:
    """Every checkpoint of a run, the oldest first, intact or not."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=iteration_of)


def iteration_of(checkpoint: Path) -> int:
    """How many iterations had been finished, as its name says."""
    return int(checkpoint.name.removeprefix("step-"))


def fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, naming the file; None if it is intact."""
    try:
        listed = json.loads((checkpoint / FILES).read_text())
        for name, digest in listed.items():
            if not (checkpoint / name).is_file():
                return f"{name} is missing"
            if _digest(checkpoint / name) != digest:
                return f"{name} is not as it was written"
    except (OSError, ValueError, AttributeError) as error:
        return f"{FILES} cannot be read ({error})"
    return None


def load(checkpoint: Path, trained: Trained) -> tuple[int, dict[str, Any]]:
    """Put a checkpoint's weights and optimiser into ``trained``.

    Returns:
        The finished iterations and the record.

    Raises:
        ConfigError: it is of other weights than the policy trains, or lacks the average that the run keeps.
    """
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
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


def _fill(folder: Path, iteration: int, trained: Trained, record: Mapping[str, Any], config: str) -> None:
    save_file(_weights(trained.policy), folder / TRAINED)
    for name, average in trained.averages().items():
        save_file(average.average, folder / name)
    state, rest = optimizer_state.flatten(trained.optimizer)
    save_file(state, folder / OPTIMISER, metadata={"rest": json.dumps(rest)})
    with trained.shipped():
        trained.policy.save_adapter(folder / "adapter")
    (folder / CONFIG).write_text(config, encoding="utf-8")
    (folder / STATE).write_text(json.dumps({"iteration": iteration, "record": record}), encoding="utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = {str(path.relative_to(folder)): _digest(path) for path in files}
    (folder / FILES).write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    # Older checkpoints go when this one is in its place: by then it must be on the disk, not only in memory.
    for path in [*files, folder / FILES, *(path for path in folder.rglob("*") if path.is_dir()), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _weights(policy: Policy) -> dict[str, Tensor]:
    return {name: value.detach().contiguous() for name, value in policy.named_trainable()}
