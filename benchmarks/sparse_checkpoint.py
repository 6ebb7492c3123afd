"""A checkpoint of any size in the hubs' layout, whose weights are holes, so that it takes no disk or memory.

A safetensors file is a header, with every tensor's name, type, shape and place, and then the bytes.  Here the
header is whole and the bytes are a hole in the file, which reads as zeros.  What loads such a file loads a
published one of the same names and shapes; libraries map the file, so that a tensor takes no memory until it
is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

BYTES = {"fp32": 4, "bf16": 2}
NAMES = {"fp32": "F32", "bf16": "BF16"}
Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(model: nn.Module, renamed: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """What a checkpoint of ``model`` holds: names as published, and shapes; a tied tensor once."""
    found: dict[str, tuple[int, ...]] = {}
    seen: set[int] = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) in seen:
            continue
        seen.add(id(value))
        begins = next((now for now in renamed if name.startswith(now)), "")
        found[renamed.get(begins, "") + name.removeprefix(begins)] = tuple(value.shape)
    return found


def count(shapes: Shapes) -> int:
    """Numbers in all of them."""
    return sum(_numbers(shape) for shape in shapes.values())


def lay_out(
    folder: Path, config: Mapping[str, Any], shapes: Shapes, dtype: str, shards: int, stem: str
) -> int:
    """Write ``config.json`` and the weight files, with an index where there are several; their bytes.

    Args:
        folder: made if need be.
        config: as the hub has it.
        shapes: by published name.
        dtype: 'fp32' or 'bf16'.
        shards: files.
        stem: 'model' or 'diffusion_pytorch_model', the library's word.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        return write_hollow(folder / f"{stem}.safetensors", shapes, dtype)
    parts: list[dict[str, tuple[int, ...]]] = [{} for _ in range(shards)]
    whole, so_far = count(shapes), 0
    for name, shape in shapes.items():
        parts[min(so_far * shards // whole, shards - 1)][name] = shape
        so_far += _numbers(shape)
    files = [f"{stem}-{number:05d}-of-{shards:05d}.safetensors" for number in range(1, shards + 1)]
    index = {
        "metadata": {"total_size": whole * BYTES[dtype]},
        "weight_map": {name: file for file, part in zip(files, parts, strict=True) for name in part},
    }
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    return sum(write_hollow(folder / file, part, dtype) for file, part in zip(files, parts, strict=True))


def write_hollow(path: Path, shapes: Shapes, dtype: str) -> int:
    """Write one such file, laid out as the safetensors library does; its bytes, holes included."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in sorted(shapes.items()):
        start, end = end, end + _numbers(shape) * BYTES[dtype]
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + end)
    return 8 + len(raw) + end


def _numbers(shape: tuple[int, ...]) -> int:
    numbers = 1
    for size in shape:
        numbers *= size
    return numbers
