"""How good a judge is: accuracy, calibration, agreement with the tracker, on clips whose verdict is known."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rewards.nsp_reward.judging import Decision, Judge
from rlnsp.manifest import ManifestError, read_clip, read_manifest
from rlnsp.maths import calibration
from rlnsp.testing.bench import make_bench
from rlnsp.types import Sample
from rlnsp.world import Tracker, UnknownContext, scenes

CLIPS_A_SCENE = 5
"""Of the bench: two true ones, another scene's, one that stands still, one under noise."""
MAX_ERRORS = 5
"""Told of those that could not be judged."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A clip whose verdict is known."""

    sample: Sample
    passes: bool
    kind: str
    """What sort of clip it is, for figures of each."""


def world_clips(n: int, seed: int = 0) -> list[Labelled]:
    """About ``n``: true clips of the embedded world's held-out contexts, and clips with a known fault."""
    bench = make_bench(scenes("heldout", max(2, -(-n // CLIPS_A_SCENE)), seed))
    assert bench.faults is not None
    return [
        Labelled(sample=sample, passes=fault is None, kind=fault or "true")
        for sample, fault in zip(bench.samples, bench.faults, strict=True)
    ]


def manifest_clips(path: Path | str, n: int) -> list[Labelled]:
    """The first ``n`` clips of a manifest, each with a video and a column ``passes``, true or false.

    Raises:
        ManifestError: a line lacks one of them.
    """
    found = []
    for scene in read_manifest(path)[:n]:
        passes = scene.columns.get("passes")
        if scene.video is None or not isinstance(passes, bool):
            raise ManifestError(
                f"{path}: scene {scene.id!r} needs a video and a column 'passes', true or false; "
                f"got video {str(scene.video)!r} and passes {passes!r}"
            )
        frames, fps = read_clip(scene.video)
        sample = Sample(scene=scene, frames=frames, fps=scene.fps or fps)
        found.append(Labelled(sample=sample, passes=passes, kind="passes" if passes else "fails"))
    return found


def measure(judge: Judge, clips: Sequence[Labelled], *, graded: bool) -> dict[str, Any]:
    """Every figure, as JSON.

    Args:
        judge: asked about all clips at once.
        clips: of at least one.
        graded: its scores say how sure it is, so that calibration means something.
    """
    start = time.perf_counter()
    decisions = judge.decide([clip.sample for clip in clips])
    seconds = time.perf_counter() - start
    told = [(clip, one) for clip, one in zip(clips, decisions, strict=True) if isinstance(one, Decision)]
    errors = [f"{type(one).__name__}: {one}" for one in decisions if isinstance(one, Exception)]
    figures: dict[str, Any] = {
        "clips": len(clips),
        "unscored": len(errors),
        "errors": errors[:MAX_ERRORS],
        "seconds_a_clip": seconds / len(clips),
    }
    if not told:
        return figures
    passes = torch.tensor([clip.passes for clip, _ in told])
    passed = torch.tensor([one.passed for _, one in told])
    kinds = list(dict.fromkeys(clip.kind for clip, _ in told))
    figures["accuracy"] = float((passes == passed).double().mean())
    figures["passed"] = {
        kind: float(np.mean([one.passed for clip, one in told if clip.kind == kind])) for kind in kinds
    }
    figures["truth"] = _agreement(passed, passes)
    if graded:
        probability = torch.tensor([one.score for _, one in told], dtype=torch.float64)
        bins = calibration.reliability(probability, passes)
        figures["calibration"] = {
            "ece": calibration.expected_calibration_error(bins),
            "brier": calibration.brier_score(probability, passes),
            "bins": [
                {"low": one.low, "high": one.high, "count": one.count}
                | ({"probability": one.probability, "passes": one.passed} if one.count else {})
                for one in bins
            ],
        }
    known = _by_tracker([clip.sample for clip, _ in told])
    if known is not None:
        figures["tracker"] = _agreement(passed, torch.tensor(known))
    return figures


def _agreement(judged: torch.Tensor, other: torch.Tensor) -> dict[str, Any]:
    kappa = calibration.cohens_kappa(judged, other)
    return {
        "agreement": float((judged == other).double().mean()),
        "kappa": kappa if kappa == kappa else None,
        "both_pass": int((judged & other).sum()),
        "only_judge": int((judged & ~other).sum()),
        "only_other": int((~judged & other).sum()),
        "both_fail": int((~judged & ~other).sum()),
    }


def _by_tracker(samples: Sequence[Sample]) -> list[bool] | None:
    """Its verdicts; None where the clips are not of its world."""
    try:
        frames = np.stack([sample.frames for sample in samples])
        verdicts = Tracker().judge([sample.scene.context for sample in samples], frames)
    except (UnknownContext, ValueError):
        return None
    return [verdict.passed for verdict in verdicts]
