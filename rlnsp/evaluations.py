"""``evaluations/*.json`` of a run folder: what each evaluation found, scene by scene, and its clips."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rlnsp.atomic import writing, written_whole
from rlnsp.evaluate import Evaluation
from rlnsp.manifest import write_clip
from rlnsp.types import Explanation, Scene

FOLDER = "evaluations"
LONGEST_NAME = 40
"""Characters of a scene's id in a file's name; they may take four bytes each, of 255."""


@dataclass(frozen=True, kw_only=True)
class ShownClip:
    """A clip that people can look at."""

    scene_id: str
    file: str
    """Relative to the run folder."""
    context_clip: str | None
    """The preceding scene as a video, where there is one; an absolute path."""
    explanations: dict[str, Explanation] = field(default_factory=dict)
    """By reward."""


@dataclass(frozen=True, kw_only=True)
class KeptEvaluation:
    """An evaluation as the run folder has it."""

    when: str
    """before, step-N or after."""
    iteration: int
    """Finished by then."""
    contexts: list[str]
    """The preceding scenes, one each of ``evaluation.scene_ids``."""
    evaluation: Evaluation
    """Without its samples."""
    clips: list[ShownClip]


def write(
    run: Path, when: str, iteration: int, scenes: Sequence[Scene], evaluation: Evaluation
) -> KeptEvaluation:
    """Write the evaluation of ``scenes``, and its samples as ``samples/*-<when>.mp4``."""
    clips = []
    for number, sample in enumerate(evaluation.samples):
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in sample.scene.id[:LONGEST_NAME])
        file = f"samples/{number:03d}-{name}-{when}.mp4"
        write_clip(run / file, sample.frames, sample.fps)
        context_clip = sample.scene.context_clip
        clips.append(
            ShownClip(
                scene_id=sample.scene.id,
                file=file,
                context_clip=None if context_clip is None else str(context_clip.resolve()),
                explanations=evaluation.explanations[number],
            )
        )
    kept = KeptEvaluation(
        when=when,
        iteration=iteration,
        contexts=[scene.context for scene in scenes],
        evaluation=evaluation,
        clips=clips,
    )
    with writing(run / FOLDER):
        (run / FOLDER).mkdir(exist_ok=True)
    with written_whole(run / FOLDER / f"{when}.json") as aside:
        aside.write_text(json.dumps(_to_json(kept), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return kept


def read(run: Path) -> list[KeptEvaluation]:
    """Every evaluation of a run folder, in the order of training; the last is the newest."""
    found = [_from_json(path) for path in (run / FOLDER).glob("*.json")]
    return sorted(found, key=lambda kept: (kept.iteration, kept.when == "after"))


def find(run: Path, when: str, iteration: int) -> Evaluation | None:
    """The evaluation that the run folder has, without its samples; None if that was not made."""
    path = run / FOLDER / f"{when}.json"
    kept = _from_json(path) if path.is_file() else None
    return kept.evaluation if kept is not None and kept.iteration == iteration else None


def best(run: Path, measure: str, *, lowest: bool = False) -> list[KeptEvaluation]:
    """The evaluations after some training by the mean of a measure, the best first; of equals the earlier."""
    means = [(kept.evaluation.interval(measure).mean, kept) for kept in read(run) if kept.when != "before"]
    known = [(mean, kept) for mean, kept in means if not math.isnan(mean)]
    return [kept for _, kept in sorted(known, key=lambda row: row[0] if lowest else -row[0])]


def forget_after(run: Path, iteration: int, last: int) -> None:
    """Drop the evaluations from after ``iteration``, and their clips; 'after' too, unless of the ``last``."""
    for kept in read(run):
        if kept.iteration > iteration or (kept.when == "after" and kept.iteration != last):
            # The clips go last: what a run was cut short in is done again, and writes them anew.
            (run / FOLDER / f"{kept.when}.json").unlink()
            for clip in kept.clips:
                (run / clip.file).unlink(missing_ok=True)


def _to_json(kept: KeptEvaluation) -> dict[str, object]:
    evaluation = kept.evaluation.to_json()
    evaluation["scores"] = {
        name: [None if math.isnan(value) else value for value in values]
        for name, values in evaluation["scores"].items()
    }
    return {
        "when": kept.when,
        "iteration": kept.iteration,
        "contexts": kept.contexts,
        "evaluation": evaluation,
        "clips": [asdict(clip) for clip in kept.clips],
    }


def _from_json(path: Path) -> KeptEvaluation:
    found = json.loads(path.read_text(encoding="utf-8"))
    evaluation = found["evaluation"]
    evaluation["scores"] = {
        name: [math.nan if value is None else value for value in values]
        for name, values in evaluation["scores"].items()
    }
    clips = []
    for clip in found["clips"]:
        said = {name: Explanation(**one) for name, one in clip.pop("explanations").items()}
        clips.append(ShownClip(**clip, explanations=said))
    return KeptEvaluation(**{**found, "evaluation": Evaluation(**evaluation), "clips": clips})
