import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import Parameter
from torch.optim import SGD, AdamW

from rlnsp import optimizer_state


def stepped(steps, groups=1):
    weights = [Parameter(torch.ones(3)), Parameter(torch.ones(2, 2))]
    rows = [{"params": weights}] if groups == 1 else [{"params": [weight]} for weight in weights]
    optimizer = AdamW(rows, lr=0.1)
    for step in range(steps):
        for weight in weights:
            weight.grad = torch.full_like(weight, step + 1.0)
        optimizer.step()
    return weights, optimizer


def test_an_optimiser_goes_on_as_if_it_had_never_stopped():
    weights, optimizer = stepped(3)
    optimizer.param_groups[0]["lr"] = 0.05
    tensors, rest = optimizer_state.flatten(optimizer)
    again, other = stepped(0)
    with torch.no_grad():
        for weight, same in zip(weights, again, strict=True):
            same.copy_(weight)
    # As a file gives them back, with what the caller saves beside them, and what JSON makes of the rest.
    tensors = {name: value.clone() for name, value in tensors.items()}
    optimizer_state.restore(other, tensors | {"parameter.x": torch.ones(1)}, json.loads(json.dumps(rest)))
    for both in (weights, again):
        for weight in both:
            weight.grad = torch.full_like(weight, -1.0)
    optimizer.step()
    other.step()
    for weight, same in zip(weights, again, strict=True):
        assert torch.equal(weight, same)


def test_tensors_and_json_hold_everything():
    tensors, rest = optimizer_state.flatten(stepped(2)[1])
    assert {name: value.shape for name, value in tensors.items()} == {
        f"optimizer.{row}.{key}": torch.Size(() if key == "step" else shape)
        for row, shape in ((0, (3,)), (1, (2, 2)))
        for key in ("step", "exp_avg", "exp_avg_sq")
    }
    assert rest["groups"][0]["lr"] == 0.1
    assert "params" not in rest["groups"][0]


def test_an_optimiser_without_state_is_saved_too():
    optimizer = SGD([Parameter(torch.ones(1))], lr=0.5)
    tensors, rest = optimizer_state.flatten(optimizer)
    assert tensors == {}
    optimizer_state.restore(optimizer, tensors, rest)
    assert optimizer.state_dict()["state"] == {}


def test_another_number_of_groups_is_refused():
    tensors, rest = optimizer_state.flatten(stepped(1)[1])
    with pytest.raises(ValueError, match="zip"):
        optimizer_state.restore(stepped(0, groups=2)[1], tensors, rest)


def test_what_is_shared_or_lies_deeper_is_kept_too(tmp_path):
    # As bitsandbytes has it: levels that all parameters have in common, and codes in a mapping of their own.
    weights, optimizer = stepped(0)
    levels = torch.linspace(0, 1, 4)
    for number, weight in enumerate(weights):
        deeper = {"levels": levels, "codes": torch.full((2,), float(number))}
        optimizer.state[weight] = {"step": 3 + number, "deeper": deeper}
    tensors, rest = optimizer_state.flatten(optimizer)
    save_file(tensors, tmp_path / "state.safetensors")  # which refuses what shares memory
    _, other = stepped(0)
    optimizer_state.restore(other, load_file(tmp_path / "state.safetensors"), json.loads(json.dumps(rest)))
    for number, state in other.state_dict()["state"].items():
        assert state["step"] == 3 + number
        assert state["deeper"]["levels"].tolist() == levels.tolist()
        assert state["deeper"]["codes"].tolist() == [number, number]


def test_windows_on_one_tensor_are_not_copied():
    weights, optimizer = stepped(0)
    row = torch.arange(7.0)
    for weight, first in zip(weights, (0, 3), strict=True):
        optimizer.state[weight] = {"exp_avg": row[first : first + weight.numel()]}
    tensors, _ = optimizer_state.flatten(optimizer)
    row += 1
    assert [value.tolist() for value in tensors.values()] == [[1, 2, 3], [4, 5, 6, 7]]
