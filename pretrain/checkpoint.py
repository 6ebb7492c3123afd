"""A stage's checkpoint: one safetensors file with everything that the next step depends on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from pretrain.marks import check_same
from rlnsp.atomic import written_whole
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
    average: Sequence[Tensor] | None
    """In the same order."""
    optimizer: Optimizer

    def save(self, step: int, record: Mapping[str, Any]) -> None:
        """Write it after ``step`` steps, whole or not at all; ``record`` is any JSON."""
        tensors = {f"parameter.{key}": value.detach() for key, value in self.parameters.items()}
        if self.average is not None:
            tensors |= {
                f"average.{key}": value for key, value in zip(self.parameters, self.average, strict=True)
            }
        # Prodigy counts steps in a Python integer and keeps its scale in the groups; AdamW has tensors only.
        numbers: dict[str, float] = {}
        for row, state in self.optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{row}.{key}"] = value
                else:
                    numbers[f"{row}.{key}"] = value
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        note = {
            "step": step,
            "record": record,
            "settings": self.settings,
            "groups": groups,
            "numbers": numbers,
        }
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
            for row, (key, value) in enumerate(self.parameters.items()):
                value.copy_(tensors[f"parameter.{key}"])
                if self.average is not None:
                    self.average[row].copy_(tensors[f"average.{key}"])
        self._load_optimizer(tensors, metadata)
        return json.loads(metadata["step"]), json.loads(metadata.get("record", "{}"))

    def _load_optimizer(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        state: dict[int, dict[str, Any]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, row, key = name.split(".", 2)
                state.setdefault(int(row), {})[key] = value
        for name, value in json.loads(metadata.get("numbers", "{}")).items():
            row, key = name.split(".", 1)
            state.setdefault(int(row), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        for group, saved in zip(groups, json.loads(metadata["groups"]), strict=True):
            group |= saved
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
