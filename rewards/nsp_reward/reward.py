"""Causal consistency: does what the video shows follow from the preceding scene?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rewards.nsp_reward.judging import Decision, Judge, Mode, own_checklist
from rewards.nsp_reward.local import LocalConfig
from rlnsp.chat import AnswerCache, ChatConfig, FramesConfig
from rlnsp.declaration import declares
from rlnsp.settings import require
from rlnsp.types import Explanation, Sample, Scene, Unscored, rows_by_scene


@declares(range=(0, 1), tells=("shuffled", "static", "noisy"))
class NSPReward:
    """1 where a judge finds the clip causally consistent with the preceding scene, else 0 (arXiv:2512.13015).

    A judge captions the generated video, then decides whether the caption follows from the preceding scene.
    Nothing else is mixed in.  In [0, 1].  docs/judges.md has judges, modes and prompts.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The paper's reward is binary; its judge is Claude 3.7 Sonnet, its prompts are not known."""

        judge: Literal["tracker", "transformers", "openai"] = "tracker"
        """``tracker``: of the embedded world, exact.  ``transformers``: a Qwen2.5-VL in this process.
        ``openai``: any server that speaks OpenAI's chat protocol, vLLM's first."""
        mode: Mode = "binary"
        """``binary``: pass or fail.  ``soft``: P(Pass) by the probabilities of the answer's first token
        (RewardDance, arXiv:2509.08826).  ``checklist``: the share of several questions that are answered with
        yes; the scene's own, where its line has a ``checklist``.  ``pairwise``: the share of comparisons
        within the group that are won (Pref-GRPO, arXiv:2508.20751); a scene's only sample, as in evaluation,
        gets pass or fail."""
        prompts: str = "paper"
        """``paper`` (for large judges), ``world`` (what small judges of the embedded world are taught), or a
        folder with files of the same names."""
        frames: FramesConfig = field(default_factory=FramesConfig)
        """What the judge is shown of a clip."""
        caption_tokens: int = 256
        """The longest caption."""
        verdict_tokens: int = 16
        """The longest verdict; a judge that is to think first needs more."""
        cache: str = ""
        """The file of the answers, so that nothing is asked twice.  Empty: one in the run's folder."""
        transformers: LocalConfig = field(default_factory=LocalConfig)
        """Of that judge."""
        openai: ChatConfig = field(default_factory=ChatConfig)
        """Of that judge."""

        def __post_init__(self) -> None:
            for name in ("caption_tokens", "verdict_tokens"):
                value = getattr(self, name)
                require(value >= 1, f"{name} must be at least 1; got {value}")
            require(
                self.judge != "transformers" or bool(self.transformers.model),
                "judge transformers needs transformers.model, a folder or a model hub's id",
            )

    def __init__(self, config: Config) -> None:
        """Load or connect to the judge.

        Raises:
            ConfigError: it is not there, or its prompts are not; with the remedy.
        """
        self.config = config
        self.judge = _judge(config)

    def __call__(self, samples: Sequence[Sample]) -> list[float | Exception]:
        """One score a sample; why there is none where a verdict could not be read or the judge failed."""
        groups = rows_by_scene(samples) if self.config.mode == "pairwise" else []
        compared = [rows for rows in groups if len(rows) > 1]
        alone = sorted(set(range(len(samples))) - {row for rows in compared for row in rows})
        scores: dict[int, float | Exception] = {}
        for rows in compared:
            rates = self.judge.win_rates([samples[row] for row in rows])
            scores.update(zip(rows, rates, strict=True))
        decisions = self.judge.decide([samples[row] for row in alone]) if alone else []
        for row, decision in zip(alone, decisions, strict=True):
            scores[row] = decision.score if isinstance(decision, Decision) else decision
        return [scores[row] for row in range(len(samples))]

    def explain(self, samples: Sequence[Sample]) -> list[Explanation]:
        """The judge's caption, its verdict, and the checks that it rests on.

        Raises:
            Exception: the judge failed on one of them.
        """
        return [_explained(decision) for decision in self.judge.decide(samples)]

    def check_scenes(self, scenes: Sequence[Scene]) -> None:
        """Raise ValueError for the first scene that the judge could not judge."""
        for scene in scenes:
            try:
                self.judge.check(scene.context)
                if self.config.mode == "checklist":
                    own_checklist(scene)
            except ValueError as error:
                raise ValueError(f"scene {scene.id!r}: {error}") from error

    def keep_in(self, folder: Path) -> None:
        """Keep the judge's prompts and its answers there; see ``Judge.keep_in``."""
        self.judge.keep_in(folder)


def _judge(config: NSPReward.Config) -> Judge:
    # What a judge needs is imported only where it is chosen.
    if config.judge == "tracker":
        from rewards.nsp_reward.tracker import TrackerJudge

        return TrackerJudge(config.mode)
    from rewards.nsp_reward.model_judge import ModelJudge
    from rewards.nsp_reward.prompts import read_prompts

    prompts = read_prompts(config.prompts, config.mode)
    cache = AnswerCache(Path(config.cache).expanduser()) if config.cache else None
    if config.judge == "transformers":
        from rewards.nsp_reward.local import LocalChat

        chat = LocalChat(config.transformers, cache)
    else:
        from rewards.nsp_reward.serving import connected

        chat = connected(config.openai, cache)
    return ModelJudge(
        chat,
        prompts,
        config.mode,
        config.frames,
        caption_tokens=config.caption_tokens,
        verdict_tokens=config.verdict_tokens,
    )


def _explained(decision: Decision | Exception) -> Explanation:
    if isinstance(decision, Unscored):
        return Explanation(verdict=f"no verdict: {decision}")
    if isinstance(decision, Exception):
        raise decision
    return Explanation(
        verdict="consistent" if decision.passed else "not consistent",
        passed=decision.passed,
        caption=decision.caption,
        checks=decision.checks,
    )
