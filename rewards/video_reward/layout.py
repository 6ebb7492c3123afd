"""The folder that the reward reads and ``convert`` makes: Qwen2-VL as transformers has it, and more."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from rlnsp.settings import ConfigError, require

DIMENSIONS = ("VQ", "MQ", "TA")
"""Visual quality, motion quality, text alignment."""
TOKENS = tuple(f"<|{name}_reward|>" for name in DIMENSIONS)
"""Where the model says what it thinks of each."""
PLACE = "{text_prompt}"
"""Of the text in the prompt."""
HEAD, PROMPT, SETTINGS = "rm_head.safetensors", "prompt.txt", "video_reward.json"

REMEDY = (
    "Download VideoReward (Kuaishou's, Apache-2.0), its base and its prompt, and make the folder: "
    "hf download KwaiVGI/VideoReward --local-dir VideoReward && "
    "hf download Qwen/Qwen2-VL-2B-Instruct --local-dir Qwen2-VL-2B-Instruct && "
    "git clone https://github.com/KwaiVGI/VideoAlign && "
    "python -m rewards.video_reward.convert VideoReward --base Qwen2-VL-2B-Instruct "
    "--prompts VideoAlign/prompt_template.py -o video-reward; "
    "then give rewards.NAME.config.model=video-reward."
)


@dataclass(frozen=True, kw_only=True)
class Published:
    """What the model was trained with, and what its raw scores are made comparable by."""

    fps: float
    """Frames that it looks at of each second."""
    min_pixels: int
    """Of a frame; smaller ones are enlarged."""
    max_pixels: int
    mean: dict[str, float]
    """Of the raw scores, by dimension."""
    std: dict[str, float]

    def __post_init__(self) -> None:
        require(self.fps > 0, f"fps must be above 0; got {self.fps}")
        require(
            0 < self.min_pixels <= self.max_pixels,
            f"min_pixels must be above 0 and at most max_pixels; got {self.min_pixels}, {self.max_pixels}",
        )
        for name in ("mean", "std"):
            given = getattr(self, name)
            numbers = set(given) == set(DIMENSIONS) and all(math.isfinite(value) for value in given.values())
            require(numbers, f"{name} must have a number for each of {', '.join(DIMENSIONS)}; got {given}")
        require(all(value > 0 for value in self.std.values()), f"std must be above 0; got {self.std}")


def write_published(folder: Path, published: Published) -> None:
    """As a file of ``folder``."""
    (folder / SETTINGS).write_text(json.dumps(asdict(published), indent=2) + "\n")


def read_published(folder: Path) -> Published:
    """The folder's.

    Raises:
        ConfigError: the file is missing, or is not one of these.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise ConfigError(f"{path} is missing. {REMEDY}")
    try:
        return Published(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:  # a ConfigError is a ValueError
        raise ConfigError(f"{path}: {error}. {REMEDY}") from error


def read_prompt(folder: Path) -> str:
    """The folder's prompt.

    Raises:
        ConfigError: it is missing, or lacks one of the tokens or the place of the text.
    """
    path = folder / PROMPT
    if not path.is_file():
        raise ConfigError(f"{path} is missing. {REMEDY}")
    prompt = path.read_text()
    check_prompt(prompt, str(path))
    return prompt


def check_prompt(prompt: str, where: str) -> None:
    """Raise ConfigError if a token, or the place of the text, is not in ``prompt`` exactly once."""
    for part in (*TOKENS, PLACE):
        require(prompt.count(part) == 1, f"{where}: {part} must be in the prompt once. {REMEDY}")
