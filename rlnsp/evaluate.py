"""How good a policy is on held-out scenes: every reward, and a measure that no reward optimises."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

from rlnsp.data import NUM_FUTURES, distances_to_nearest, true_clips
from rlnsp.data_loss import DataLoss
from rlnsp.distributed import Ranks
from rlnsp.protocols import Policy
from rlnsp.randomness import Randomness
from rlnsp.rollout import sample_each
from rlnsp.scoring import BuiltReward, explain, score
from rlnsp.settings import EvaluationConfig, SamplerConfig
from rlnsp.types import Explanation, Sample, Scene

DISTANCE = "distance_to_future"
"""Mean absolute difference of pixels, in [0, 1], to the nearest true future; lower is better."""
DATA_LOSS = "data_loss"
"""The diffusion loss on the scenes' true next scenes; lower is better."""
LOWER_IS_BETTER = (DISTANCE, DATA_LOSS)

Weights = Literal["live", "ema"]
MakeClips = Callable[[Sequence[Scene], Generator, Sequence[int]], list[Sample]]
"""A clip of each scene in those places, as it would be among all; what it draws comes from the generator."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over scenes with its 95% bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int
    """Scenes that the mean is over."""

    @property
    def ci95(self) -> list[float]:
        """The interval's ends."""
        return [self.low, self.high]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One policy on one list of held-out scenes."""

    scene_ids: list[str]
    scores: dict[str, list[float]]
    """Per measure, a number a scene: its mean over seeds.  NaN where no clip could be measured."""
    how: dict[str, Any]
    """Sampler, steps, guidance, seeds and whose weights."""
    bootstrap: int = 2000
    samples: list[Sample] = field(default_factory=list)
    """The first clips, of the first seed."""
    explanations: list[dict[str, Explanation]] = field(default_factory=list)
    """Of each of ``samples``, by reward."""

    def interval(self, measure: str) -> Interval:
        """The mean of a measure over scenes."""
        return bootstrap_mean(np.asarray(self.scores[measure]), self.bootstrap)

    def to_json(self) -> dict[str, Any]:
        """All but the clips; ``Evaluation(**...)`` reads it back."""
        clips = {"samples", "explanations"}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in clips}


def evaluate(
    policy: Policy,
    scenes: Sequence[Scene],
    rewards: Sequence[BuiltReward],
    sampler: SamplerConfig,
    config: EvaluationConfig,
    *,
    chunk_size: int,
    weights: Weights = "live",
    keep: int = 0,
    data_loss: DataLoss | None = None,
    ranks: Ranks | None = None,
) -> Evaluation:
    """Generate each scene once a seed by the deterministic sampler, and measure the clips.

    The same seed gives every policy the same noise, so that two evaluations can be paired.

    Args:
        policy: what is evaluated.
        scenes: held out.
        rewards: each is a measure, weight or no weight.
        sampler: for the number of steps and the guidance, where ``config`` has none of its own.
        config: seeds and bootstrap.
        chunk_size: clips in the making at once.
        weights: whose they are; only recorded.
        keep: how many clips to keep.
        data_loss: measured too, on the scenes' true clips, where it is given.
        ranks: share the scenes; each finds the same, but only the main one has the clips that are kept.
    """
    return evaluate_clips(
        by_policy(policy, sampler, config, chunk_size),
        scenes,
        rewards,
        config,
        chunk_size=chunk_size,
        how={**sampled_how(sampler, config), "weights": weights},
        keep=keep,
        data_loss=data_loss,
        ranks=ranks,
    )


def by_policy(policy: Policy, sampler: SamplerConfig, config: EvaluationConfig, chunk_size: int) -> MakeClips:
    """Clips by the deterministic sampler."""
    return lambda scenes, generator, own: sample_each(
        policy,
        scenes,
        sampler,
        generator,
        chunk_size=chunk_size,
        num_steps=config.num_steps,
        guidance_scale=config.guidance_scale,
        own=own,
    )


def sampled_how(sampler: SamplerConfig, config: EvaluationConfig) -> dict[str, Any]:
    """How ``by_policy`` samples, for the record."""
    guidance = sampler.guidance_scale if config.guidance_scale is None else config.guidance_scale
    return {
        "sampler": "ode",
        "num_steps": config.num_steps or sampler.num_steps,
        "guidance_scale": guidance,
    }


def evaluate_clips(
    make: MakeClips,
    scenes: Sequence[Scene],
    rewards: Sequence[BuiltReward],
    config: EvaluationConfig,
    *,
    chunk_size: int,
    how: dict[str, Any],
    keep: int = 0,
    data_loss: DataLoss | None = None,
    seen: Callable[[Sequence[Sample], int], None] = lambda samples, number: None,
    measured: Callable[[Sequence[Sample], int], None] = lambda samples, number: None,
    ranks: Ranks | None = None,
) -> Evaluation:
    """As ``evaluate``, of clips however they are made.

    Args:
        make: makes this rank's share of them, of at most ``chunk_size`` scenes a rank in a call.
        scenes: held out.
        rewards: each is a measure, weight or no weight.
        config: seeds and bootstrap.
        chunk_size: scenes measured at once.
        how: what the record says of the making, beside the seeds.
        keep: how many clips to keep.
        data_loss: as in ``evaluate``.
        seen: given every clip as it is made, with the number of its seed, counted from 0.
        measured: the same once rewards have scored it.
        ranks: as in ``evaluate``.
    """
    ranks = ranks or Ranks()
    seeds = range(config.seed, config.seed + config.num_seeds)
    generators = [Randomness(seed=seed).generator("evaluation") for seed in seeds]
    names = [reward.name for reward in rewards]
    scores: dict[str, list[float]] = {name: [] for name in [*names, DISTANCE]}
    kept: list[Sample] = []
    shape: tuple[int, ...] = ()
    for start in range(0, len(scenes), chunk_size * ranks.teams):  # all clips at once may not fit in memory
        part = scenes[start : start + chunk_size * ranks.teams]
        own = ranks.share(len(part))
        made: list[list[Sample]] = []
        for number, generator in enumerate(generators):
            made.append(make(part, generator, own))
            seen(made[-1], number)
        if not own or not ranks.first:
            continue
        kept += made[0][: len(ranks.share(keep)) - len(kept)]
        shape = made[0][0].frames.shape
        raw = [score(rewards, samples).raw for samples in made]
        for number, samples in enumerate(made):
            measured(samples, number)
        for name in names:
            scores[name] += _mean_over_seeds([one[name].tolist() for one in raw])
        distances = [distances_to_future(clips) for clips in zip(*made, strict=True)]
        scores[DISTANCE] += _mean_over_seeds(list(zip(*distances, strict=True)))
    scores = {name: ranks.collect(own) for name, own in scores.items()}
    if data_loss is not None:
        losses = data_loss.measure(scenes, tuple(ranks.of_main(shape)), config.seed, chunk_size)
        scores.update({} if np.isnan(losses).all() else {DATA_LOSS: losses})
    explanations = explain(rewards, kept)
    return Evaluation(
        scene_ids=[scene.id for scene in scenes],
        scores=scores,
        how={**how, "seeds": list(seeds)},
        bootstrap=config.bootstrap,
        samples=_of_all(kept, scenes, ranks),
        explanations=_said_by_all(explanations, ranks),
    )


def _of_all(own: list[Sample], scenes: Sequence[Scene], ranks: Ranks) -> list[Sample]:
    """On the main rank the clips that every rank keeps of its share, in the order of ``scenes``."""
    if ranks.count == 1 or not ranks.of_main(len(own)):
        return own
    shape = ranks.of_main(list(own[0].frames.shape) if own else [])
    fps = ranks.of_main(own[0].fps if own else 0.0)
    frames = np.concatenate([one.frames.reshape(-1) for one in own] or [np.zeros(0, np.uint8)])
    clips = [list(one.reshape(-1, *shape).numpy()) for one in ranks.to_main(torch.from_numpy(frames))]
    whole = ranks.merge(clips)
    return [Sample(scene=scene, frames=clip, fps=fps) for scene, clip in zip(scenes, whole, strict=False)]


def _said_by_all(own: list[dict[str, Explanation]], ranks: Ranks) -> list[dict[str, Explanation]]:
    said = ranks.collect([{name: asdict(one) for name, one in clip.items()} for clip in own])
    return [{name: Explanation(**one) for name, one in clip.items()} for clip in said]


def paired_difference(before: Evaluation, after: Evaluation, measure: str) -> Interval:
    """How much higher ``after`` is, scene by scene.

    Raises:
        ValueError: they are of different scenes.
    """
    if before.scene_ids != after.scene_ids:
        raise ValueError("two evaluations can be paired only over the same scenes, in the same order")
    return bootstrap_mean(
        np.asarray(after.scores[measure]) - np.asarray(before.scores[measure]), after.bootstrap
    )


def bootstrap_mean(values: NDArray[np.float64], resamples: int) -> Interval:
    """The mean, and the 2.5th and 97.5th percentile of the means of resampled scenes.  NaNs are left out."""
    values = values[~np.isnan(values)]
    if not len(values):
        return Interval(mean=np.nan, low=np.nan, high=np.nan, n=0)
    rng = np.random.default_rng(0)  # the interval of given values is always the same
    n = len(values)
    means = [
        values[rng.integers(n, size=(min(100, resamples - done), n))].mean(1)
        for done in range(0, resamples, 100)
    ]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Interval(mean=float(values.mean()), low=float(low), high=float(high), n=n)


def distances_to_future(clips: Sequence[Sample]) -> list[float]:
    """Mean absolute difference of pixels, in [0, 1], of each clip of one scene to its nearest true future.

    That is the scene's own video where it has one, else one of the embedded world's.  NaN where neither is
    known, or is of another size.
    """
    true = true_clips(clips[0].scene, NUM_FUTURES, clips[0].frames.shape)
    if true is None:
        return [np.nan] * len(clips)
    return distances_to_nearest([clip.frames for clip in clips], true)


def _mean_over_seeds(values: Sequence[Sequence[float]]) -> list[float]:
    """Of a row a seed, the mean a scene over what is known."""
    known = [[value for value in scene if value == value] for scene in zip(*values, strict=True)]
    return [sum(scene) / len(scene) if scene else np.nan for scene in known]
