"""What the models are asked: text files that can be changed, kept with what they made."""

from collections.abc import Mapping
from pathlib import Path

from rlnsp.chat.templates import check_places, prompts_folder
from rlnsp.settings import require

PACKAGED = Path(__file__).with_name("prompts")
PLACES = {
    "caption": (),
    "write": ("caption",),
    "rewrite": ("caption", "rejected"),
    "consistent": ("context", "caption"),
    "restates": ("context", "caption"),
}
"""Every file, and what it has to have a place for."""


def read_prompts(name_or_folder: str) -> Mapping[str, str]:
    """The texts of a set, by file name without '.txt'.

    Raises:
        ConfigError: there is no such set; a file is missing, lacks a place, or has one for something else.
    """
    folder = prompts_folder(name_or_folder, PACKAGED)
    texts: dict[str, str] = {}
    for name, places in PLACES.items():
        path = folder / f"{name}.txt"
        require(path.is_file(), f"prompts: {path} is not there; write it, as {PACKAGED / 'paper'} has it")
        texts[name] = path.read_text(encoding="utf-8").strip()
        check_places(path, texts[name], places)
    return texts
