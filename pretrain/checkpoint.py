"""A stage's checkpoint: one safetensors file with everything that the next step depends on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn import Parameter
from torch.optim import Optimizer

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
    parameters: Mapping[str, Parameter]
    """By name."""
    ema: EMA | None
    """Of the same parameters, updated once a step."""
    optimizer: Optimizer

    def save(self, step: int, record: Mapping[str, Any]) -> None:
        """Write it after ``step`` steps, whole or not at all; ``record`` is any JSON."""
        tensors = {f"parameter.{key}": value.detach() for key, value in self.parameters.items()}
        if self.ema is not None:
            tensors |= {f"average.{key}": value for key, value in self.ema.average.items()}
        state, rest = optimizer_state.flatten(self.optimizer)
        tensors |= state
        note = {"step": step, "record": record, "settings": self.settings, "optimizer": rest}
        metadata = {"stage": self.stage} | {key: json.dumps(value) for key, value in note.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = {key: value.contiguous().clone() for key, value in tensors.items()}
        with written_whole(self.path) as aside:
            save_file(whole, aside, metadata=metadata)

    def load(self) -> tuple[int, dict[str, Any]]:
        """Bring everything back, bit by bit; the steps done and the record, or (0, {}) if nothing was saved.

        Raises:
            ConfigError: a damaged checkpoint, or one of another stage, of other settings or of another model.
        """
        if not self.path.is_file():
            return 0, {}
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        except SafetensorError as error:
            raise ConfigError(
                f"{self.path}: damaged ({error}); remove it to start {self.stage} anew"
            ) from error
        if metadata.get("stage") != self.stage:
            given = metadata.get("stage")
            raise ConfigError(f"{self.path}: of stage {given}; remove it to start {self.stage} anew")
        if "settings" in metadata:
            check_same(self.path, json.loads(metadata["settings"]), self.settings)
        expected = {f"parameter.{key}": value.shape for key, value in self.parameters.items()}
        if expected != {key: value.shape for key, value in tensors.items() if key.startswith("parameter.")}:
            raise ConfigError(f"{self.path}: of another model; remove it to start {self.stage} anew")
        with torch.no_grad():
            for key, value in self.parameters.items():
                value.copy_(tensors[f"parameter.{key}"])
        step = json.loads(metadata["step"])
        if self.ema is not None:
            self.ema.load({key: tensors[f"average.{key}"] for key in self.parameters}, step)
        optimizer_state.restore(self.optimizer, tensors, json.loads(metadata["optimizer"]))
        return step, json.loads(metadata.get("record", "{}"))
