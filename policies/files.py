"""Which files a part consists of, and whether they are whole.

A part is a folder in the layout of the library that loads it.  All of it is checked before a library sees a
file, so that a broken folder is one line with its remedy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlnsp.settings import ConfigError

CONFIG = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}
"""Of the parts without weights; the others' is config.json."""
VOCABULARIES = {
    "comprehension": ("tokenizer.json", "vocab.json"),
    "tokenizer": ("tokenizer.json", "spiece.model"),
}
"""Any of these holds the words of a part that has some."""
REMEDY = "Copy it again from where it came, or make it anew (for the shipped world: make world-weights)."


def check_part(folder: Path, part: str) -> None:
    """Every file of a part is there and whole.

    Raises:
        ConfigError: the first that is not, with the remedy.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: this policy's {part} is missing. {REMEDY}")
    config = folder / CONFIG.get(part, "config.json")
    if not config.is_file():
        raise ConfigError(f"{config} is missing. {REMEDY}")
    for path in sorted(folder.glob("*.json")):
        content = read_json(path)
        if path.name.endswith(".safetensors.index.json"):
            for shard in sorted(set(content.get("weight_map", {}).values())):
                if not (folder / shard).is_file():
                    raise ConfigError(f"{folder / shard} is missing. {REMEDY}")
    if part in VOCABULARIES and not any((folder / name).is_file() for name in VOCABULARIES[part]):
        # transformers would go on with an empty vocabulary.
        raise ConfigError(f"{folder / 'tokenizer.json'} is missing. {REMEDY}")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights and part not in CONFIG:
        raise ConfigError(f"{folder}: no .safetensors file (pickled weights are not read). {REMEDY}")
    for path in weights:
        check_safetensors(path)


def check_safetensors(path: Path) -> None:
    """The file is as long as its header says.

    Raises:
        ConfigError: it is missing, truncated or no safetensors file.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is missing. {REMEDY}")
    size = path.stat().st_size
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        if size < 8 or header_size > size - 8:
            raise ConfigError(f"{path} is truncated or no safetensors file: {size} bytes. {REMEDY}")
        try:
            header = json.loads(file.read(header_size))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"{path} is no safetensors file: its header is not readable. {REMEDY}"
            ) from error
    expected = 8 + header_size + max(ends, default=0)
    if size != expected:
        raise ConfigError(f"{path} is damaged: {size} bytes, its header says {expected}. {REMEDY}")


def check_adapter(folder: Path) -> None:
    """The adapter's files are there and whole.

    Raises:
        ConfigError: the first that is not.
    """
    if not (folder / "adapter_config.json").is_file():
        raise ConfigError(f"{folder}: no adapter_config.json. Give the adapter folder of a run.")
    read_json(folder / "adapter_config.json")
    check_safetensors(folder / "adapter_model.safetensors")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ConfigError: it is none.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not readable as JSON ({error}). {REMEDY}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a JSON object was expected. {REMEDY}")
    return content
