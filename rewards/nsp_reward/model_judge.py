"""A judge that is a vision-language model, in this process or behind a server."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rewards.nsp_reward.judging import Decision, Mode, own_checklist
from rewards.nsp_reward.prompts import Prompts, with_clips
from rewards.nsp_reward.verdicts import FIRST_SECOND, PASS_FAIL, TOP_LOGPROBS, YES_NO, probability
from rlnsp.chat import Answer, AnswerCache, FramesConfig, Question, sampled, verdict
from rlnsp.chat.templates import filled
from rlnsp.types import Sample, Scene, Unscored

T = TypeVar("T")


class Chat(Protocol):
    """Whoever answers: ``rlnsp.chat.ChatClient``, or a model in this process."""

    cache: AnswerCache | None
    """What it has answered before."""

    def identity(self) -> Mapping[str, Any]:
        """Which model answers, and how, as JSON: what answers are cached by beside the question."""
        ...

    def answers(self, questions: Sequence[Question]) -> Sequence[Answer | Exception]:
        """Each question's answer, or why there is none, in order."""
        ...


class ModelJudge:
    """Captions a clip from its frames, then decides on the caption alone, as the paper's judge does.

    Of a pair it is shown both clips, once in either order, so that a liking for one place cancels out.
    """

    def __init__(
        self,
        chat: Chat,
        prompts: Prompts,
        mode: Mode,
        frames: FramesConfig,
        *,
        caption_tokens: int,
        verdict_tokens: int,
    ) -> None:
        self.chat, self.prompts, self.mode, self.frames = chat, prompts, mode, frames
        self.caption_tokens, self.verdict_tokens = caption_tokens, verdict_tokens

    def check(self, context: str) -> None:
        """It reads whatever is written."""

    def decide(self, samples: Sequence[Sample]) -> list[Decision | Exception]:
        """All captions, then all verdicts."""
        captions = self._captions(samples)
        asked = {
            row: self._questions(sample.scene, caption)
            for row, (sample, caption) in enumerate(zip(samples, captions, strict=True))
            if isinstance(caption, str)
        }
        answers = iter(self.chat.answers([one for questions in asked.values() for one in questions]))
        decisions: list[Decision | Exception] = []
        for row, caption in enumerate(captions):
            if isinstance(caption, Exception):
                decisions.append(caption)
                continue
            own = list(itertools.islice(answers, len(asked[row])))
            scene = samples[row].scene
            decisions.append(
                _tried(lambda scene=scene, caption=caption, own=own: self._decision(scene, caption, own))
            )
        return decisions

    def win_rates(self, group: Sequence[Sample]) -> list[float | Exception]:
        """n (n - 1) questions, two clips each.  A comparison whose verdict cannot be read does not count."""
        clips = [_tried(lambda sample=sample: self._shown(sample)) for sample in group]
        asked = {
            (first, second): self._question(
                *with_clips(self.prompts["pairwise"], group[0].scene.context, first=one, second=other)
            )
            for (first, one), (second, other) in itertools.permutations(enumerate(clips), 2)
            if isinstance(one, np.ndarray) and isinstance(other, np.ndarray)
        }
        answers = self.chat.answers([*asked.values()])
        outcomes: list[list[float | Exception]] = [[] for _ in group]
        for (first, second), answer in zip(asked, answers, strict=True):
            is_first = _tried(lambda answer=answer: verdict(_answered(answer), FIRST_SECOND))
            if isinstance(is_first, Exception):
                outcomes[first].append(is_first)
                outcomes[second].append(is_first)
            else:
                outcomes[first].append(float(is_first))
                outcomes[second].append(float(not is_first))
        return [
            clip if isinstance(clip, Exception) else _rate(found)
            for clip, found in zip(clips, outcomes, strict=True)
        ]

    def keep_in(self, folder: Path) -> None:
        """The prompts and the judge's name; the answers too, unless they are kept elsewhere."""
        record = {
            "model": dict(self.chat.identity()),
            "prompts": self.prompts.hashes,
        }
        path = folder / "judge.json"
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            changed = [name for name in record if record[name] != before.get(name)]
            if changed:
                raise ValueError(
                    f"the judge's {' and '.join(changed)} have changed since {path} was written; put back "
                    f"what was there ({folder / 'prompts'} has the prompts), or begin another run"
                )
        else:
            (folder / "prompts").mkdir(parents=True, exist_ok=True)
            for name, text in self.prompts.texts.items():
                (folder / "prompts" / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
            # Under a name of its own first: each process of a run writes it.
            with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as aside:
                aside.write(json.dumps(record, indent=2) + "\n")
            os.replace(aside.name, path)
        if self.chat.cache is None:
            self.chat.cache = AnswerCache(folder / "answers.sqlite")

    def _captions(self, samples: Sequence[Sample]) -> list[str | Exception]:
        clips = [_tried(lambda sample=sample: self._shown(sample)) for sample in samples]
        questions = [
            Question(content=[clip, self.prompts["caption"]], max_tokens=self.caption_tokens)
            for clip in clips
            if isinstance(clip, np.ndarray)
        ]
        answers = iter(self.chat.answers(questions))
        return [
            _tried(lambda: _caption(next(answers))) if isinstance(clip, np.ndarray) else clip
            for clip in clips
        ]

    def _shown(self, sample: Sample) -> NDArray[np.uint8]:
        return sampled(sample.frames, sample.fps, self.frames)

    def _questions(self, scene: Scene, caption: str) -> list[Question]:
        context = scene.context
        if self.mode != "checklist":
            return [self._question(filled(self.prompts["judge"], context=context, caption=caption))]
        return [
            self._question(filled(self.prompts["check"], context=context, caption=caption, question=question))
            for question in self._checklist(scene).values()
        ]

    def _checklist(self, scene: Scene) -> dict[str, str]:
        """Each question by its name; a scene's own questions are their names."""
        own = own_checklist(scene)
        return self.prompts.checklist if own is None else {question: question for question in own}

    def _question(self, *content: str | NDArray[np.uint8]) -> Question:
        top_logprobs = TOP_LOGPROBS if self.mode == "soft" else 0
        return Question(content=content, max_tokens=self.verdict_tokens, top_logprobs=top_logprobs)

    def _decision(self, scene: Scene, caption: str, answers: Sequence[Answer | Exception]) -> Decision:
        said = [_answered(answer) for answer in answers]
        if self.mode == "checklist":
            checks = {
                name: verdict(answer, YES_NO)
                for name, answer in zip(self._checklist(scene), said, strict=True)
            }
            share = sum(checks.values()) / len(checks)
            return Decision(passed=all(checks.values()), score=share, caption=caption, checks=checks)
        (answer,) = said
        if self.mode == "soft":
            score = probability(answer, PASS_FAIL)
            return Decision(passed=score >= 0.5, score=score, caption=caption)
        passed = verdict(answer, PASS_FAIL)
        return Decision(passed=passed, score=float(passed), caption=caption)


def _answered(answer: Answer | Exception) -> Answer:
    if isinstance(answer, Exception):
        raise answer
    return answer


def _caption(answer: Answer | Exception) -> str:
    text = _answered(answer).text.strip()
    if not text:
        raise Unscored("the judge says nothing of the clip")
    return text


def _tried(call: Callable[[], T]) -> T | Exception:
    """What it returns, or the exception: of one sample, so that it costs no other."""
    try:
        return call()
    except Exception as error:
        return error


def _rate(outcomes: Sequence[float | Exception]) -> float | Exception:
    """The mean of what could be read; if asking failed, why."""
    for outcome in outcomes:
        if isinstance(outcome, Exception) and not isinstance(outcome, Unscored):
            return outcome
    wins = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
    if wins:
        return sum(wins) / len(wins)
    why = next((str(outcome) for outcome in outcomes), "no other clip of the group could be shown")
    return Unscored(f"none of its comparisons has a verdict: {why}")
