"""An optimiser's state as tensors and JSON, which safetensors files hold: no pickle."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

_PREFIX = "optimizer."


def flatten(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state's own tensors, by name, and the rest of it, which is JSON.

    No copies, but of what several have in common, such as the levels of 8-bit states: a file has each apart.
    """
    tensors: dict[str, Tensor] = {}
    known: set[int] = set()
    # Prodigy counts steps in a Python integer and keeps its scale in the groups; AdamW has tensors only.
    numbers: dict[str, float] = {}
    for name, value in _leaves(optimizer.state_dict()["state"]):
        if isinstance(value, Tensor):
            own = value.detach().contiguous()
            place = own.data_ptr()
            tensors[f"{_PREFIX}{name}"] = own.clone() if place in known else own
            known.add(place)
        else:
            numbers[name] = value
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
        row, *within, key = name.split(".")
        place = state.setdefault(int(row), {})
        for part in within:
            place = place.setdefault(part, {})
        place[key] = value
    groups = optimizer.state_dict()["param_groups"]
    for group, saved in zip(groups, rest["groups"], strict=True):
        group |= saved
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _leaves(state: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    # bitsandbytes keeps some of a parameter's state a mapping deeper.
    for key, value in state.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
