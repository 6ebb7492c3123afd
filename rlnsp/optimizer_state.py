"""An optimiser's state as tensors and JSON, which safetensors files hold: no pickle."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

_PREFIX = "optimizer."


def flatten(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state's own tensors (no copies), by name, and the rest of it, which is JSON."""
    tensors: dict[str, Tensor] = {}
    # Prodigy counts steps in a Python integer and keeps its scale in the groups; AdamW has tensors only.
    numbers: dict[str, float] = {}
    for row, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{_PREFIX}{row}.{key}"] = value.detach().contiguous()
            else:
                numbers[f"{row}.{key}"] = value
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    return tensors, {"groups": groups, "numbers": numbers}


def restore(optimizer: Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Bring back what ``flatten`` gave, bit by bit; tensors of other names are passed over.

    Raises:
        ValueError: of an optimiser with another number of groups.
    """
    state: dict[int, dict[str, Any]] = {}
    named = {name.removeprefix(_PREFIX): v for name, v in tensors.items() if name.startswith(_PREFIX)}
    for name, value in (named | dict(rest["numbers"])).items():
        row, key = name.split(".", 1)
        state.setdefault(int(row), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    for group, saved in zip(groups, rest["groups"], strict=True):
        group |= saved
    optimizer.load_state_dict({"state": state, "param_groups": groups})
