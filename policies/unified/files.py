"""The policy folder on disk: ``policy.json`` and one folder a part, each in the layout of its library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import policies
from policies.files import read_json
from rlnsp.settings import ConfigError

PARTS = ("comprehension", "transformer", "vae", "scheduler", "connector")
FORMAT, VERSION = "rlnsp.unified", 1


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
    content = read_json(path)
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        found = f"{content.get('format')} version {content.get('version')}"
        raise ConfigError(f"{path}: this rlnsp reads {FORMAT} version {VERSION}, not {found}.")
    for key, kind in (("num_frames", int), ("height", int), ("width", int), ("fps", (int, float))):
        if not isinstance(content.get(key), kind) or content[key] <= 0:
            raise ConfigError(f"{path}: {key!r} must be a positive number, not {content.get(key)!r}.")
    return content
