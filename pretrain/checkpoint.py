"""A stage's checkpoint: one safetensors file with everything that the next step depends on.

It is the same file however many processes wrote it, and whether the weights were spread over them.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from pretrain.local_shards import LocalShards
from pretrain.marks import check_same
from rlnsp import optimizer_state
from rlnsp.atomic import written_whole
from rlnsp.ema import EMA
from rlnsp.settings import ConfigError


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What is saved and brought back, and where it lies."""

    path: Path
    stage: str
    settings: Mapping[str, Any]
    """A checkpoint made with others is refused."""
    shards: LocalShards
    """Of the trained parameters."""
    ema: EMA | None
    """Of the same parameters, updated once a step."""
    optimizer: Optimizer

    def save(self, step: int, record: Mapping[str, Any]) -> None:
        """Write it after ``step`` steps, whole or not at all; ``record`` is any JSON.

        Where weights are spread all processes call this, and rank 0 writes.
        """
        tensors = {f"parameter.{key}": value.detach() for key, value in self.shards.own.items()}
        if self.ema is not None:
            tensors |= {f"average.{key}": value for key, value in self.ema.average.items()}
        state, rest = optimizer_state.flatten(self.optimizer)
        tensors |= state
        if self.shards.spread:
            owners = self._owners(tensors)
            tensors = {key: self.shards.gather(owners[key], value) for key, value in tensors.items()}
            if not self.shards.ranks.main:
                return
        note = {"step": step, "record": record, "settings": self.settings, "optimizer": rest}
        metadata = {"stage": self.stage} | {key: json.dumps(value) for key, value in note.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        copy = not self.shards.spread  # what was gathered is a copy
        whole = {key: value.contiguous().to("cpu", copy=copy) for key, value in tensors.items()}
        with written_whole(self.path) as aside:
            save_file(whole, aside, metadata=metadata)

    def load(self) -> tuple[int, dict[str, Any]]:
        """Bring everything back, bit by bit; the steps done and the record, or (0, {}) if nothing was saved.

        Of what is spread each process reads its own part.

        Raises:
            ConfigError: a damaged checkpoint, or one of another stage, of other settings or of another model.
        """
        if not self.path.is_file():
            return 0, {}
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                keys = [*file.keys()]
                shapes = {key: file.get_slice(key).get_shape() for key in keys}
                expected = {f"parameter.{key}": [*shape] for key, shape in self.shards.shapes.items()}
                same = expected == {key: shapes[key] for key in keys if key.startswith("parameter.")}
                tensors = self._read(file, keys) if same else {}
        except SafetensorError as error:
            raise ConfigError(
                f"{self.path}: damaged ({error}); remove it to start {self.stage} anew"
            ) from error
        if metadata.get("stage") != self.stage:
            given = metadata.get("stage")
            raise ConfigError(f"{self.path}: of stage {given}; remove it to start {self.stage} anew")
        if "settings" in metadata:
            check_same(self.path, json.loads(metadata["settings"]), self.settings)
        if not same:
            raise ConfigError(f"{self.path}: of another model; remove it to start {self.stage} anew")
        with torch.no_grad():
            for key, value in self.shards.own.items():
                value.copy_(tensors[f"parameter.{key}"])
        self.shards.written()
        step = json.loads(metadata["step"])
        if self.ema is not None:
            self.ema.load({key: tensors[f"average.{key}"] for key in self.shards.own}, step)
        optimizer_state.restore(self.optimizer, tensors, json.loads(metadata["optimizer"]))
        return step, json.loads(metadata.get("record", "{}"))

    def _read(self, file: Any, keys: Collection[str]) -> dict[str, Tensor]:
        if not self.shards.spread:
            return {key: file.get_tensor(key) for key in keys}
        return {key: self.shards.read(file, key, name) for key, name in self._owners(keys).items()}

    def _owners(self, keys: Iterable[str]) -> dict[str, str]:
        """The parameter that each tensor of the file belongs to."""
        known = {id(value): name for name, value in self.shards.own.items()}
        order = [known[id(value)] for group in self.optimizer.param_groups for value in group["params"]]
        owners = {}
        for key in keys:
            kind, _, rest = key.partition(".")
            owners[key] = order[int(rest.partition(".")[0])] if kind == "optimizer" else rest
        return owners
