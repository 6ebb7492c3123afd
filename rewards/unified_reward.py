"""Alignment, physics and style, as a UnifiedReward model behind an OpenAI-compatible server rates them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rlnsp.chat import Answer, AnswerCache, ChatClient, ChatConfig, FramesConfig, NoServer, Question, sampled
from rlnsp.declaration import declares
from rlnsp.settings import ConfigError, require
from rlnsp.types import Sample, Scene, Unscored, rows_by_scene

Clip = NDArray[np.uint8]
Mode = Literal["point", "pair"]
REMEDY = (
    "Download UnifiedReward 2.0 (MIT) and serve it: hf download CodeGoat24/UnifiedReward-2.0-qwen-7b "
    "--local-dir UnifiedReward && vllm serve UnifiedReward --served-model-name UnifiedReward --port 8080 "
    "--limit-mm-per-prompt.image 32; or name another server in rewards.NAME.config.server.base_urls."
)
AXES: dict[Mode, tuple[str, str, str]] = {
    "point": ("Alignment", "Physics", "Style"),
    "pair": ("Alignment", "Coherence", "Style"),
}
NUM_FRAMES: dict[Mode, int] = {"point": 16, "pair": 8}
"""Of a clip, as published."""
LOW, HIGH = 1.0, 5.0
"""Of a rating."""
MAX_TOKENS = 256
SLACK = 0.02
"""Of two shares that should add up to 1, as they are written with few digits."""
EVEN = 1e-9
"""From 1/2: a tie, but for rounding."""
PLACE = "{caption}"
NUMBER = r"(\d+(?:\.\d+)?)"
PROMPTS: dict[Mode, str] = {
    "point": """\
The images are frames of one generated video, in order. Rate it from 1 (worst) to 5 (best) in three respects:
- Alignment: does it show what the caption says?
- Physics: do things fall, move, collide and touch as they would in reality?
- Style: is it good to look at, whatever the caption says?

Answer in three lines, with decimals, and nothing else:
Alignment Score (1-5): X
Physics Score (1-5): Y
Style Score (1-5): Z

Text Caption: [{caption}]""",
    "pair": """\
The images are frames of two generated videos of one caption: first all of Video 1, then as many of Video 2.
Compare them in three respects. In each, give both a share, so that the shares add up to 1 and the better one
has more:
- Alignment: which shows what the caption says?
- Coherence: which hangs together, with nothing distorted, flickering or out of nowhere?
- Style: which is better to look at, whatever the caption says?

Answer in this form, and with nothing else:
Alignment Score:
 Video 1: X
 Video 2: Y
Coherence Score:
 Video 1: X
 Video 2: Y
Style Score:
 Video 1: X
 Video 2: Y

Text Caption: [{caption}]""",
}
"""Ours, in the form of answer that the model was trained to give; its repository has the published ones."""


@declares(range=(0, 1))
class UnifiedReward:
    """Ratings of 1 to 5 in three respects, or the share of comparisons won in the group.  In [0, 1].

    UnifiedReward 2.0 (arXiv:2503.05236, github.com/CodeGoat24/UnifiedReward).  ``point``: the weighted mean
    of alignment, physics and style, less 1, over 4.  ``pair``: each clip of a group against each other, the
    shares of alignment, coherence and style weighed together; a win is 1 and a tie 1/2 (Pref-GRPO,
    arXiv:2508.20751).  A scene's only sample, as in evaluation, is rated as in ``point``.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """How it is asked."""

        mode: Mode = "point"
        server: ChatConfig = field(default_factory=lambda: ChatConfig(base_urls=["http://127.0.0.1:8080/v1"]))
        text: Literal["context", "caption"] = "context"
        """What the clip should show: the preceding scene, or the manifest's caption of the next."""
        weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
        """Of alignment; physics, in a pair coherence; style.  At least one above 0."""
        both_orders: bool = False
        """Of a pair ask both, so that a liking for one place cancels out.  Else one, by the pixels."""
        point_prompt: str = ""
        """A file in place of the prompt, such as the published one, with {caption} in it."""
        pair_prompt: str = ""
        """As ``point_prompt``."""
        max_edge: int = 512
        """Pixels; a frame whose longer edge is larger is scaled down to it."""
        cache: str = ""
        """The file of the answers, so that nothing is asked twice.  Empty: one in the run's folder."""

        def __post_init__(self) -> None:
            require(
                min(self.weights) >= 0 and max(self.weights) > 0,
                f"weights must be 0 or more, and one above 0; got {self.weights}",
            )

    def __init__(self, config: Config) -> None:
        """Connect.

        Raises:
            ConfigError: no server answers, or a prompt cannot be used.
        """
        self.config = config
        self.prompts: dict[Mode, str] = {
            "point": _prompt("point", config.point_prompt),
            "pair": _prompt("pair", config.pair_prompt),
        }
        cache = AnswerCache(Path(config.cache).expanduser()) if config.cache else None
        self.client = ChatClient(config.server, cache)
        try:
            self.client.connect()
        except NoServer as error:
            raise ConfigError(f"{error}. {REMEDY}") from error

    def check_scenes(self, scenes: Sequence[Scene]) -> None:
        """Raise ValueError for the first scene that lacks the text."""
        for scene in scenes:
            if not getattr(scene, self.config.text):
                raise ValueError(f"scene {scene.id!r} has no {self.config.text}; give it one, or set text")

    def keep_in(self, folder: Path) -> None:
        """Keep the prompts there, and the answers, unless they are kept elsewhere."""
        for mode, prompt in self.prompts.items():
            path = folder / f"{mode}.txt"
            if path.is_file() and path.read_text(encoding="utf-8") != prompt:
                raise ValueError(
                    f"the prompt for mode {mode} is not {path}, which this run has been scored by; "
                    f"give {mode}_prompt={path}, or begin another run"
                )
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(prompt, encoding="utf-8")
        if self.client.cache is None:
            self.client.cache = AnswerCache(folder / "answers.sqlite")

    def __call__(self, samples: Sequence[Sample]) -> list[float | Exception]:
        """One score a sample, or why there is none."""
        groups = rows_by_scene(samples) if self.config.mode == "pair" else []
        compared = [rows for rows in groups if len(rows) > 1]
        alone = sorted(set(range(len(samples))) - {row for rows in compared for row in rows})
        scores: dict[int, float | Exception] = dict(
            zip(alone, self._ratings([samples[row] for row in alone]), strict=True)
        )
        for rows in compared:
            scores.update(zip(rows, self._win_rates([samples[row] for row in rows]), strict=True))
        return [scores[row] for row in range(len(samples))]

    def _ratings(self, samples: Sequence[Sample]) -> list[float | Exception]:
        questions = [self._question("point", [sample]) for sample in samples]
        return [_read(answer, self._rating) for answer in self.client.answers(questions)]

    def _rating(self, answer: Answer) -> float:
        found = [
            _number(rf"{axis} Score(?: \(1-5\))?:\s*{NUMBER}", answer, (LOW, HIGH)) for axis in AXES["point"]
        ]
        return (self._weighed([low for (low,) in found]) - LOW) / (HIGH - LOW)

    def _win_rates(self, group: Sequence[Sample]) -> list[float | Exception]:
        pairs = list(self._pairs(group))
        answers = self.client.answers([self._question("pair", [group[i], group[j]]) for i, j in pairs])
        shares: dict[tuple[int, int], list[float]] = {}
        failures: list[list[Exception]] = [[] for _ in group]
        for (i, j), answer in zip(pairs, answers, strict=True):
            share = _read(answer, self._share)
            if isinstance(share, Exception):
                failures[i].append(share)
                failures[j].append(share)
            else:
                shares.setdefault((min(i, j), max(i, j)), []).append(share if i < j else 1 - share)
        outcomes: list[list[float]] = [[] for _ in group]
        for (i, j), found in shares.items():
            mean = sum(found) / len(found)
            won = 0.5 if abs(mean - 0.5) < EVEN else float(mean > 0.5)
            outcomes[i].append(won)
            outcomes[j].append(1 - won)
        return [_rate(won, failed) for won, failed in zip(outcomes, failures, strict=True)]

    def _pairs(self, group: Sequence[Sample]) -> Iterator[tuple[int, int]]:
        """Which comes first is settled by the pixels, and so is the same in whatever order samples come."""
        for i, j in itertools.combinations(range(len(group)), 2):
            first, second = (group[k].frames.tobytes() for k in (i, j))
            yield (i, j) if first <= second else (j, i)
            if self.config.both_orders:
                yield (j, i) if first <= second else (i, j)

    def _share(self, answer: Answer) -> float:
        """Of the first clip, in [0, 1]."""
        found = []
        for axis in AXES["pair"]:
            both = rf"{axis} Score:\s*Video 1:\s*{NUMBER}\s*Video 2:\s*{NUMBER}"
            first, second = _number(both, answer, (0.0, 1.0))
            if abs(first + second - 1) > SLACK:
                raise Unscored(f"{axis}: {first:g} and {second:g} do not add up to 1")
            found.append((first + 1 - second) / 2)
        return self._weighed(found)

    def _weighed(self, values: Sequence[float]) -> float:
        weights = self.config.weights
        return sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights)

    def _question(self, mode: Mode, samples: Sequence[Sample]) -> Question:
        frames = FramesConfig(max_frames=NUM_FRAMES[mode], max_edge=self.config.max_edge)
        # Taken for a frame a second, a clip has fewer than are asked for, and is shown up to the most.
        every = [sampled(one.frames, 1.0, frames) for one in samples]
        text = self.prompts[mode].replace(PLACE, str(getattr(samples[0].scene, self.config.text)))
        return Question(content=[*every, text], max_tokens=MAX_TOKENS)


def _prompt(mode: Mode, name: str) -> str:
    if not name:
        return PROMPTS[mode]
    path = Path(name).expanduser()
    require(path.is_file(), f"{mode}_prompt={path}: there is no such file")
    prompt = path.read_text(encoding="utf-8")
    require(prompt.count(PLACE) == 1, f"{mode}_prompt={path}: {PLACE} must be in it once")
    return prompt


def _rate(won: Sequence[float], failed: Sequence[Exception]) -> float | Exception:
    """The mean of what could be read; where asking failed, why, so that it is asked again."""
    why = next((error for error in failed if not isinstance(error, Unscored)), None)
    if why is None and won:
        return sum(won) / len(won)
    return why or failed[0]


def _read(answer: Answer | Exception, reader: Callable[[Answer], float]) -> float | Exception:
    if isinstance(answer, Exception):
        return answer
    try:
        return reader(answer)
    except Unscored as error:
        return error


def _number(pattern: str, answer: Answer, bounds: tuple[float, float]) -> list[float]:
    """The numbers in the one place where ``pattern`` is found.

    Raises:
        Unscored: it is not there once, or a number is out of bounds.
    """
    found = re.findall(pattern, answer.text)
    if len(found) != 1:
        raise Unscored(f"the answer is not in the form asked for: {answer.text[:200]!r}")
    numbers = [float(one) for one in ([found[0]] if isinstance(found[0], str) else found[0])]
    low, high = bounds
    if not all(low <= number <= high for number in numbers):
        raise Unscored(f"a score is outside {low:g} to {high:g}: {answer.text[:200]!r}")
    return numbers
