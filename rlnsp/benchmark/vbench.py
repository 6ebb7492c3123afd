"""Clips in the layout that VBench (arXiv:2311.17982) reads: ``{prompt}-{index}.mp4``, a folder a model.

For prompts that are not VBench's own it reads the folder with ``--mode=custom_input --prompt_file
prompts.json``, which maps each file's name to its prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlnsp.atomic import writing, written_whole
from rlnsp.manifest import write_clip
from rlnsp.types import Sample

PROMPTS = "prompts.json"
LONGEST_NAME = 255 - len(".partial")
"""Bytes of a file's name on most file systems, while it is being written."""


class VBenchFolder:
    """One model's clips."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._prompts: dict[str, str] = {}
        with writing(folder):
            folder.mkdir(parents=True)

    def add(self, samples: Sequence[Sample], index: int) -> None:
        """Write clips: of each prompt the one of that number, counted from 0.

        Raises:
            WriteFailed: the system refused it.
        """
        for sample in samples:
            name = file_name(sample, index, self._prompts)
            write_clip(self.folder / name, sample.frames, sample.fps)
            self._prompts[name] = sample.scene.context
        with written_whole(self.folder / PROMPTS) as aside:
            aside.write_text(json.dumps(self._prompts, indent=1, ensure_ascii=False), encoding="utf-8")


def file_name(sample: Sample, index: int, taken: Mapping[str, str]) -> str:
    """``{prompt}-{index}.mp4``; with the scene's id where no file can be called that, or one already is."""
    prompt = sample.scene.context
    name = f"{prompt}-{index}.mp4"
    if "/" in prompt or "\0" in prompt or len(name.encode()) > LONGEST_NAME or name in taken:
        name = f"{''.join(c if c.isalnum() or c in '-_.' else '_' for c in sample.scene.id[:60])}-{index}.mp4"
    return name
