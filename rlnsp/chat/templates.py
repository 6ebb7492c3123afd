"""Prompts as text files with places to fill, such as {caption}."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from rlnsp.plugins import nearest
from rlnsp.settings import ConfigError, require

PLACE = re.compile(r"\{(\w+)\}")


def prompts_folder(name_or_folder: str, packaged: Path) -> Path:
    """A set of prompts: one of the folders in ``packaged`` by its name, or any folder.

    Raises:
        ConfigError: there is no such set.
    """
    names = {path.name for path in packaged.iterdir() if path.is_dir()}
    folder = packaged / name_or_folder if name_or_folder in names else Path(name_or_folder).expanduser()
    require(
        folder.is_dir(),
        f"prompts: there is no set and no folder {name_or_folder!r}{nearest(name_or_folder, names)}; "
        f"packaged: {', '.join(sorted(names))}",
    )
    return folder


def hashes(texts: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 of each text."""
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


def filled(template: str, **texts: str) -> str:
    """The template with its places filled; what is filled in is not looked into."""
    return PLACE.sub(lambda place: texts[place.group(1)], template)


def check_places(path: Path, text: str, places: tuple[str, ...] | None) -> None:
    """What a file says has every place and no other; None: whatever is in braces is text.

    Raises:
        ConfigError: it is empty, lacks a place, or has one for something else.
    """
    if not text:
        raise ConfigError(f"prompts: {path} is empty; write what the judge is asked")
    if places is None:
        return
    found = set(PLACE.findall(text))
    wanted = ", ".join(f"{{{place}}}" for place in places) or "none"
    for place in sorted(found - set(places)):
        raise ConfigError(
            f"prompts: {path} has a place {{{place}}}{nearest(place, places)}; it may have: {wanted}"
        )
    for place in sorted(set(places) - found):
        raise ConfigError(f"prompts: {path} has no place {{{place}}}; it must have: {wanted}")
