"""The clips of a report: scene by scene what each policy made, and what the judges said of it."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
from av.error import FFmpegError

from rlnsp.evaluations import KeptEvaluation, ShownClip
from rlnsp.report.runs import ReportedRun
from rlnsp.types import Explanation

MOST_BYTES = 24 * 2**20
"""Of video in one report, so that a browser opens it at once and it can be mailed; base64 adds a third."""


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A video that travels inside the page."""

    mp4: str
    """base64."""
    width: int
    height: int
    fps: float


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One clip of one scene."""

    clip: Embedded | None
    missing: str = ""
    """Why there is no clip."""
    scores: dict[str, float | None] = field(default_factory=dict)
    """Of the scene, by measure: means over the evaluation's seeds."""
    explanations: Mapping[str, Explanation] = field(default_factory=dict)

    @property
    def share(self) -> float | None:
        """Of the judges' checks, those that hold; tells apart clips of one score."""
        checks = [holds for said in self.explanations.values() for holds in said.checks.values()]
        return sum(checks) / len(checks) if checks else None


@dataclass(frozen=True, kw_only=True)
class Card:
    """One scene."""

    scene_id: str
    context: str
    preceding: Embedded | None
    views: list[Shown]
    """One a label of the gallery."""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Every scene that has a clip, in the order of evaluation."""

    labels: list[str]
    """What is compared, such as before and after."""
    cards: list[Card]
    left_out: int
    """Clips that did not fit into ``MOST_BYTES``."""
    seeds: int = 1
    """The most clips that a score is the mean of; the first of them is shown."""


def gallery(runs: Sequence[ReportedRun]) -> Gallery:
    """The scenes of the runs' evaluations: before the first run, and after each.

    Where another run began with another policy, its own evaluation before is shown too.
    """
    columns = _columns(runs)
    clips = [{clip.scene_id: clip for clip in kept.clips} for _, _, kept in columns]
    scenes = dict.fromkeys(scene for part in clips for scene in part)
    budget, cards = _Budget(MOST_BYTES), []
    for scene in scenes:
        views = [
            _shown(run, kept, scene, part.get(scene), budget)
            for (_, run, kept), part in zip(columns, clips, strict=True)
        ]
        kept, clip = next(
            (kept, part[scene]) for (_, _, kept), part in zip(columns, clips, strict=True) if scene in part
        )
        context = kept.contexts[kept.evaluation.scene_ids.index(scene)]
        path = clip.context_clip
        preceding = budget.embed(Path(path)) if path and path.endswith(".mp4") else None
        preceding = preceding if isinstance(preceding, Embedded) else None
        cards.append(Card(scene_id=scene, context=context, preceding=preceding, views=views))
    return Gallery(
        labels=[label for label, _, _ in columns],
        cards=cards,
        left_out=budget.refused,
        seeds=max((len(kept.evaluation.how.get("seeds", [0])) for _, _, kept in columns), default=1),
    )


def _columns(runs: Sequence[ReportedRun]) -> list[tuple[str, ReportedRun, KeptEvaluation]]:
    columns: list[tuple[str, ReportedRun, KeptEvaluation]] = []
    starts: list[object] = []
    for run in runs:
        name = f"{run.name}: " if len(runs) > 1 else ""
        if run.first and run.first.evaluation.scores not in starts:
            columns.append((f"{name if starts else ''}before", run, run.first))
            starts.append(run.first.evaluation.scores)
        if run.last:
            columns.append((f"{name}after {run.last.iteration} iterations", run, run.last))
    return columns


def _shown(
    run: ReportedRun, kept: KeptEvaluation, scene: str, clip: ShownClip | None, budget: "_Budget"
) -> Shown:
    if clip is None:
        return Shown(clip=None, missing="no clip was kept of this scene")
    row = kept.evaluation.scene_ids.index(scene)
    scores = {
        name: None if math.isnan(values[row]) else values[row]
        for name, values in kept.evaluation.scores.items()
    }
    found = budget.embed(run.path / clip.file)
    return Shown(
        clip=found if isinstance(found, Embedded) else None,
        missing=found if isinstance(found, str) else "",
        scores=scores,
        explanations=clip.explanations,
    )


class _Budget:
    """Embeds videos as long as they fit."""

    def __init__(self, most: int) -> None:
        self.left, self.refused = most, 0

    def embed(self, path: Path) -> Embedded | str:
        """The video, or why there is none."""
        if not path.is_file():
            return f"{path} is not there any more"
        data = path.read_bytes()
        if len(data) > self.left:
            self.refused += 1
            return f"not embedded, to keep this page small: {path}"
        try:
            with av.open(io.BytesIO(data)) as container:
                stream = container.streams.video[0]
                width, height, fps = stream.width, stream.height, float(stream.average_rate or 0)
        except (FFmpegError, IndexError) as error:
            return f"{path} cannot be read: {error}"
        self.left -= len(data)
        return Embedded(mp4=base64.b64encode(data).decode(), width=width, height=height, fps=fps or 8.0)
