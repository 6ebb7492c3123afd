"""What judges said of every clip, a JSON line each, for people to read beside the scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rlnsp.atomic import writing
from rlnsp.scoring import BuiltReward, explain
from rlnsp.types import Sample

NAME = "verdicts.jsonl"


class Verdicts:
    """Those of one row of the table; what a measure does not explain is not there."""

    def __init__(self, folder: Path, row: str, rewards: Sequence[BuiltReward], first_seed: int) -> None:
        self.path, self.row, self.rewards, self.first_seed = folder / NAME, row, rewards, first_seed

    def add(self, samples: Sequence[Sample], number: int) -> None:
        """Ask the rewards, which have scored these clips of that seed, counted from 0, and add the lines.

        Raises:
            RewardFailed: as ``rlnsp.scoring.explain``.
            WriteFailed: the system refused it.
        """
        lines = [
            json.dumps(
                {
                    "policy": self.row,
                    "scene": sample.scene.id,
                    "seed": self.first_seed + number,
                    "measure": measure,
                    **asdict(explanation),
                },
                ensure_ascii=False,
            )
            for sample, said in zip(samples, explain(self.rewards, samples), strict=True)
            for measure, explanation in said.items()
        ]
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in lines)
