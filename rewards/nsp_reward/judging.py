"""What a judge is, whatever it judges with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from rlnsp.types import Sample, Scene

OWN_CHECKLIST = "checklist"
"""The manifest's column of a scene's own questions."""
Mode = Literal["binary", "soft", "checklist", "pairwise"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a judge thinks of one clip."""

    passed: bool
    """The clip is causally consistent with its preceding scene."""
    score: float
    """In [0, 1], by the judge's mode."""
    caption: str
    """What the clip shows, in words."""
    checks: Mapping[str, bool] = field(default_factory=dict)
    """What was looked at, by name, and whether it holds."""


class Judge(Protocol):
    """The two calls of the paper: caption the clip, then decide on the caption."""

    def check(self, context: str) -> None:
        """Raise ValueError if it could not judge what follows ``context``."""
        ...

    def decide(self, samples: Sequence[Sample]) -> Sequence[Decision | Exception]:
        """A decision for each sample on its own, or why there is none; in pairwise mode pass or fail."""
        ...

    def win_rates(self, group: Sequence[Sample]) -> Sequence[float | Exception]:
        """Of samples of one scene, the share of comparisons with the others that each wins."""
        ...

    def keep_in(self, folder: Path) -> None:
        """Keep there what another run needs to judge alike, and answers for when the run goes on.

        Raises:
            ValueError: the folder has the record of a judge that judges otherwise.
        """
        ...


def own_checklist(scene: Scene) -> list[str] | None:
    """What is to be asked of clips of this scene, in the place of the prompts' checklist; None: nothing.

    Raises:
        ValueError: the column is no list of questions, each once.
    """
    questions = scene.columns.get(OWN_CHECKLIST)
    if questions is None:
        return None
    texts = isinstance(questions, list) and all(isinstance(one, str) and one.strip() for one in questions)
    if not texts or not questions or len(set(questions)) < len(questions):
        raise ValueError(
            f"its {OWN_CHECKLIST} must be a list of questions, each once and at least one; got {questions!r}"
        )
    return questions
