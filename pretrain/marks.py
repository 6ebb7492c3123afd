"""What a stage was made with, kept beside what it made: work made otherwise is refused."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlnsp.atomic import written_whole
from rlnsp.settings import ConfigError


def check_same(path: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """What lies at ``path`` was made with the settings that hold now.

    Raises:
        ConfigError: it was not; the message names every setting that differs.
    """
    old, new = dict(_flat(_as_json(was))), dict(_flat(_as_json(now)))
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if keys:
        changes = "; ".join(
            f"{key} was {old.get(key, 'not there')}, now {new.get(key, 'not there')}" for key in keys
        )
        raise ConfigError(
            f"{path}: made with other settings ({changes}); set them back, remove {path} to make it anew, "
            "or choose another --output"
        )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write it whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as aside:
        aside.write_text(json.dumps(content) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """What ``write_json`` wrote.

    Raises:
        ConfigError: it is no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(
            f"{path}: not valid JSON ({error}); remove {path.parent} to make it anew"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold a JSON object; remove {path.parent} to make it anew")
    return content


def _as_json(content: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(content))


def _flat(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
