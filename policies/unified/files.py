"""The policy folder on disk: which files a part consists of, and whether they are whole.

A policy folder holds ``policy.json`` and one folder a part, each in the layout of the library that loads it.
Everything here is checked before a library sees a file, so that a broken folder is one line with its remedy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import policies
from rlnsp.settings import ConfigError

PARTS = ("comprehension", "transformer", "vae", "scheduler", "connector")
FORMAT, VERSION = "rlnsp.unified", 1
_CONFIG = {"scheduler": "scheduler_config.json"}
_REMEDY = "Copy it again from where it came, or make it anew (for the shipped world: make world-weights)."


def policy_folder(name: str) -> Path:
    """The folder that a setting names; ``world`` is the one shipped with rlnsp.

    Raises:
        ConfigError: there is no such policy folder.
    """
    shipped = name == "world"
    folder = Path(policies.__file__ or "").parent / "world" if shipped else Path(name).expanduser()
    if not (folder / "policy.json").is_file():
        why = "has no policy.json" if folder.is_dir() else "does not exist"
        what = (
            "Make it with: make world-weights"
            if shipped
            else "Give a policy folder, or world for the shipped one."
        )
        raise ConfigError(f"policy folder {folder} {why}. {what}")
    return folder


def read_policy_json(folder: Path) -> dict[str, Any]:
    """The checked contents of ``policy.json``.

    Raises:
        ConfigError: it is not JSON, of another format or version, or lacks a key.
    """
    path = folder / "policy.json"
    content = _read_json(path)
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        found = f"{content.get('format')} version {content.get('version')}"
        raise ConfigError(f"{path}: this rlnsp reads {FORMAT} version {VERSION}, not {found}.")
    for key, kind in (("num_frames", int), ("height", int), ("width", int), ("fps", (int, float))):
        if not isinstance(content.get(key), kind) or content[key] <= 0:
            raise ConfigError(f"{path}: {key!r} must be a positive number, not {content.get(key)!r}.")
    return content


def check_part(folder: Path, part: str) -> None:
    """Every file of a part is there and whole.

    Raises:
        ConfigError: the first that is not, with the remedy.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: this policy's {part} is missing. {_REMEDY}")
    config = folder / _CONFIG.get(part, "config.json")
    if not config.is_file():
        raise ConfigError(f"{config} is missing. {_REMEDY}")
    for path in sorted(folder.glob("*.json")):
        content = _read_json(path)
        if path.name.endswith(".safetensors.index.json"):
            for shard in sorted(set(content.get("weight_map", {}).values())):
                if not (folder / shard).is_file():
                    raise ConfigError(f"{folder / shard} is missing. {_REMEDY}")
    if part == "comprehension" and not any(
        (folder / name).is_file() for name in ("tokenizer.json", "vocab.json")
    ):
        # transformers would go on with an empty vocabulary.
        raise ConfigError(f"{folder / 'tokenizer.json'} is missing. {_REMEDY}")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights and part != "scheduler":
        raise ConfigError(f"{folder}: no .safetensors file (pickled weights are not read). {_REMEDY}")
    for path in weights:
        check_safetensors(path)


def check_safetensors(path: Path) -> None:
    """The file is as long as its header says.

    Raises:
        ConfigError: it is missing, truncated or no safetensors file.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is missing. {_REMEDY}")
    size = path.stat().st_size
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        if size < 8 or header_size > size - 8:
            raise ConfigError(f"{path} is truncated or no safetensors file: {size} bytes. {_REMEDY}")
        try:
            header = json.loads(file.read(header_size))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"{path} is no safetensors file: its header is not readable. {_REMEDY}"
            ) from error
    expected = 8 + header_size + max(ends, default=0)
    if size != expected:
        raise ConfigError(f"{path} is damaged: {size} bytes, its header says {expected}. {_REMEDY}")


def check_adapter(folder: Path) -> None:
    """The adapter's files are there and whole.

    Raises:
        ConfigError: the first that is not.
    """
    if not (folder / "adapter_config.json").is_file():
        raise ConfigError(f"{folder}: no adapter_config.json. Give the adapter folder of a run.")
    _read_json(folder / "adapter_config.json")
    check_safetensors(folder / "adapter_model.safetensors")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not readable as JSON ({error}). {_REMEDY}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a JSON object was expected. {_REMEDY}")
    return content
