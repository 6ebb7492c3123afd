"""The rewards, asked about real samples, about them again in another order, and about other clips."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rlnsp.check.report import Finding, note, right, wrong
from rlnsp.check.subject import Subject, ask
from rlnsp.data import true_clips
from rlnsp.scoring import BuiltReward, RewardFailed
from rlnsp.types import Sample, Scores

FEW = 4
"""Samples a scene, of two scenes, for what is asked more than once."""


def reward(subject: Subject, asked: BuiltReward) -> Finding:
    """It answers, with what latency and spread; the order does not matter; the clip does."""
    answer = subject.answers[asked.name]
    if isinstance(answer, RewardFailed):
        return wrong(str(answer), "repair what fails, then ask it by rlnsp.testing.check_reward")
    raw, scored = answer.raw, answer.raw[~answer.raw.isnan()]
    if not len(scored):
        return wrong(
            f"none of {len(raw)} clips could be scored", "look at why it answers None: it teaches nothing"
        )
    spread, each = float(scored.std(correction=0)), answer.seconds / len(raw)
    figures = {
        "clips": len(raw),
        "unscored": len(raw) - len(scored),
        "mean": float(scored.mean()),
        "spread": spread,
        "seconds": answer.seconds,
        "seconds_a_clip": each,
    }
    says = f"mean {figures['mean']:.3g}, spread {spread:.3g} over {len(scored)} clips, {_time(each)} a clip"
    if figures["unscored"]:
        says += f", {figures['unscored']} unscored"
    few = _few(subject, raw)
    first, again = ask(asked, few), ask(asked, few)
    turned = ask(asked, few[::-1]).flip(0)
    repeat, moved = _change(first, again), _change(first, turned)
    figures |= {"repeat_difference": repeat, "order_difference": moved}
    if moved > 3 * repeat + 0.01 * float(first.nan_to_num().std(correction=0)):
        return wrong(
            f"{says}; in another order the same clips score otherwise, by {moved:.3g} on average",
            "score a clip by itself and its group, and answer in the order of the question",
            figures,
        )
    blind = _blind_to(asked, few, first)
    if blind:
        finding = wrong if "true" in blind else note
        return finding(
            f"{says}; within a scene {blind} clips all have one score",
            "read the clips: completions, or sample.frames",
            figures,
        )
    if repeat:
        return note(
            f"{says}; asked twice it differs by {repeat:.3g} on average",
            "make it answer alike where it can; what is random in it is noise in every advantage",
            figures,
        )
    if not spread:
        return note(
            f"{says}: all alike", "nothing is to be learnt from clips that score alike; see groups", figures
        )
    return right(f"{says}; the same in another order", figures)


def groups(subject: Subject) -> Finding:
    """How many groups of the piece have something to teach."""
    answers = {name: one for name, one in subject.answers.items() if not isinstance(one, RewardFailed)}
    scores = Scores(
        raw={name: one.raw for name, one in answers.items()},
        weights={one.name: one.weight for one in subject.rewards},
    )
    _, stats = subject.algorithm().credit(subject.trajectory, scores)
    flat, count = stats.get("zero_variance_groups"), len(subject.scenes)
    if flat is None:
        return note("the algorithm does not say how many groups are flat (zero_variance_groups)")
    says = f"{round(flat * count)} of {count} groups of {subject.config.trainer.group_size} have no spread"
    figures = {"zero_variance_groups": flat, "groups": count}
    if flat >= 0.5:
        return note(
            says,
            "such groups teach nothing: larger groups, more noise, a finer reward, or scenes of another "
            "difficulty",
            figures,
        )
    return right(says, figures)


def _few(subject: Subject, raw: Tensor) -> list[Sample]:
    """Of the first two scenes with a score."""
    group, samples = subject.trajectory.group, subject.trajectory.samples
    scored = group[~raw.isnan()].unique()[:2]
    rows = [(group == number).nonzero().flatten()[:FEW].tolist() for number in scored]
    return [samples[row] for own in rows for row in own]


def _blind_to(asked: BuiltReward, few: list[Sample], first: Tensor) -> str:
    """The kinds of clips, in words, that do not change the score of any scene; '' if one does."""
    rng = np.random.default_rng(0)
    scenes = {sample.scene.id: sample for sample in few}
    known = {scene: float(first[row]) for row, scene in enumerate(sample.scene.id for sample in few)}
    kinds: dict[str, list[Sample]] = {"generated": few, "black": [], "random": [], "true": []}
    for one in scenes.values():
        noise = rng.integers(0, 256, one.frames.shape, dtype=np.uint8)
        kinds["black"].append(replace(one, frames=np.zeros_like(one.frames)))
        kinds["random"].append(replace(one, frames=noise))
        true = true_clips(one.scene, 1)
        if true is not None:
            kinds["true"].append(replace(one, frames=true[0]))
    tried = [kind for kind, samples in kinds.items() if samples]
    for kind in tried:
        try:
            scores = first if kind == "generated" else ask(asked, kinds[kind])
        except RewardFailed:
            return ""  # it read them, and could not make sense of them
        if any(
            known[sample.scene.id] != score
            for sample, score in zip(kinds[kind], scores.tolist(), strict=True)
            if not (math.isnan(score) and math.isnan(known[sample.scene.id]))
        ):
            return ""
    return f"{', '.join(tried[:-1])} and {tried[-1]}"


def _change(first: Tensor, second: Tensor) -> float:
    """The mean absolute difference; infinite where one was scored and the other not."""
    if not torch.equal(first.isnan(), second.isnan()):
        return float("inf")
    return float((first - second).nan_to_num().abs().mean())


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1e3:.2g} ms"
