"""The prompts of a judge: text files that can be changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlnsp.chat.templates import PLACE, check_places, hashes, prompts_folder
from rlnsp.settings import require

PACKAGED = Path(__file__).with_name("prompts")
PLACES = {
    "caption": (),
    "judge": ("context", "caption"),
    "check": ("context", "caption", "question"),
    "pairwise": ("context", "first", "second"),
}
"""What each template has to have a place for."""
NEEDED = {
    "binary": ("caption", "judge"),
    "soft": ("caption", "judge"),
    "checklist": ("caption", "check", "checklist"),
    "pairwise": ("caption", "judge", "pairwise"),
}
"""The files that each mode reads; pairwise comparisons are explained by a judgement."""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The files of a mode, read and checked."""

    texts: Mapping[str, str]
    """By file name, without '.txt'."""

    def __getitem__(self, name: str) -> str:
        return self.texts[name]

    @property
    def checklist(self) -> dict[str, str]:
        """Each question by its name."""
        lines = [line.partition(":") for line in self["checklist"].splitlines() if line.strip()]
        return {name.strip(): question.strip() for name, _, question in lines}

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each text."""
        return hashes(self.texts)


def read_prompts(name_or_folder: str, mode: str) -> Prompts:
    """The packaged set of that name, or a folder's, as far as ``mode`` needs it.

    Raises:
        ConfigError: there is no such set; a file is missing, has no place for what it is about, or a place
            for something else; the checklist has no questions.
    """
    folder = prompts_folder(name_or_folder, PACKAGED)
    texts: dict[str, str] = {}
    for name in NEEDED[mode]:
        path = folder / f"{name}.txt"
        require(
            path.is_file(),
            f"prompts: mode {mode} needs {path}, which is not there; write it, or choose a mode that the "
            f"prompts {name_or_folder!r} are for: {', '.join(_modes_of(folder)) or 'they are for none'}",
        )
        texts[name] = path.read_text(encoding="utf-8").strip()
        check_places(path, texts[name], PLACES.get(name))
    prompts = Prompts(texts=texts)
    if mode == "checklist":
        questions = prompts.checklist
        require(
            bool(questions) and all(questions) and all(questions.values()),
            f"prompts: {folder / 'checklist.txt'}: needs lines 'name: question', each name once",
        )
        lines = sum(bool(line.strip()) for line in prompts["checklist"].splitlines())
        require(
            len(questions) == lines,
            f"prompts: {folder / 'checklist.txt'}: {lines} lines have {len(questions)} names; "
            "make them unique",
        )
    return prompts


def with_clips(template: str, context: str, **clips: NDArray[np.uint8]) -> list[str | NDArray[np.uint8]]:
    """The template with clips in their places: texts and clips by turns."""
    content: list[str | NDArray[np.uint8]] = []
    # Splitting by a pattern with a group gives text, place, text, place, ..., text.
    for number, part in enumerate(PLACE.split(template)):
        if number % 2 == 0 or part == "context":
            text = context if number % 2 else part
            if content and isinstance(content[-1], str):
                content[-1] += text
            else:
                content.append(text)
        else:
            content.append(clips[part])
    return [part for part in content if not isinstance(part, str) or part]


def _modes_of(folder: Path) -> list[str]:
    return [
        mode for mode, names in NEEDED.items() if all((folder / f"{name}.txt").is_file() for name in names)
    ]
