"""How good a policy is on held-out scenes: every reward, and a measure that no reward optimises."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlnsp.manifest import read_clip
from rlnsp.protocols import Policy
from rlnsp.randomness import Randomness
from rlnsp.rollout import sample
from rlnsp.scoring import BuiltReward, score
from rlnsp.settings import EvaluationConfig, SamplerConfig
from rlnsp.types import Sample, Scene
from rlnsp.world import UnknownContext, futures

DISTANCE = "distance_to_future"
"""Mean absolute difference of pixels, in [0, 1], to the nearest true future; lower is better."""
NUM_FUTURES = 8

Weights = Literal["live", "ema"]


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
    """Per measure, a number a scene: its mean over seeds.  NaN where no clip of the scene could be measured."""
    how: dict[str, Any]
    """Sampler, steps, guidance, seeds and whose weights."""
    bootstrap: int = 2000
    samples: list[Sample] = field(default_factory=list)
    """The first clips, of the first seed."""

    def interval(self, measure: str) -> Interval:
        """The mean of a measure over scenes."""
        return bootstrap_mean(np.asarray(self.scores[measure]), self.bootstrap)

    def to_json(self) -> dict[str, Any]:
        """All but the clips; ``Evaluation(**...)`` reads it back."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "samples"}


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
    """
    columns: dict[str, list[NDArray[np.float64]]] = {reward.name: [] for reward in rewards} | {DISTANCE: []}
    kept: list[Sample] = []
    seeds = range(config.seed, config.seed + config.num_seeds)
    for seed in seeds:
        generator = Randomness(seed=seed).generator("evaluation")
        video = sample(
            policy,
            scenes,
            sampler,
            generator,
            chunk_size=chunk_size,
            num_steps=config.num_steps,
            guidance_scale=config.guidance_scale,
        )
        made = [Sample(scene=s, frames=f, fps=video.fps) for s, f in zip(scenes, video.frames, strict=True)]
        kept = kept or made[:keep]
        for name, values in score(rewards, made).raw.items():
            columns[name].append(values.double().numpy())
        columns[DISTANCE].append(np.array([distance_to_future(one) for one in made]))
    guidance = sampler.guidance_scale if config.guidance_scale is None else config.guidance_scale
    return Evaluation(
        scene_ids=[scene.id for scene in scenes],
        scores={name: _mean_over_seeds(values) for name, values in columns.items()},
        how={
            "sampler": "ode",
            "num_steps": config.num_steps or sampler.num_steps,
            "guidance_scale": guidance,
            "seeds": list(seeds),
            "weights": weights,
        },
        bootstrap=config.bootstrap,
        samples=kept,
    )


def paired_difference(before: Evaluation, after: Evaluation, measure: str) -> Interval:
    """How much higher ``after`` is, scene by scene.

    Raises:
        ValueError: they are of different scenes.
    """
    if before.scene_ids != after.scene_ids:
        raise ValueError("two evaluations can be paired only over the same scenes, in the same order")
    return bootstrap_mean(np.asarray(after.scores[measure]) - np.asarray(before.scores[measure]), after.bootstrap)


def bootstrap_mean(values: NDArray[np.float64], resamples: int) -> Interval:
    """The mean, and the 2.5th and 97.5th percentile of the means of resampled scenes.  NaNs are left out."""
    values = values[~np.isnan(values)]
    if not len(values):
        return Interval(mean=np.nan, low=np.nan, high=np.nan, n=0)
    rng = np.random.default_rng(0)  # the interval of given values is always the same
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(mean=float(values.mean()), low=float(low), high=float(high), n=len(values))


def distance_to_future(made: Sample) -> float:
    """Mean absolute difference of pixels, in [0, 1], to the nearest true future of the clip's scene.

    That is the scene's own video where it has one, else one of the embedded world's.  NaN where neither is known,
    or is of another size.
    """
    if made.scene.video is not None:
        true = read_clip(made.scene.video)[0][None]
    else:
        try:
            true = futures(made.scene.context, NUM_FUTURES, seed=0)
        except UnknownContext:
            return np.nan
    if true.shape[1:] != made.frames.shape:
        return np.nan
    differences = np.abs(true.astype(np.int16) - made.frames.astype(np.int16))
    return float(differences.mean(axis=(1, 2, 3, 4)).min() / 255)


def _mean_over_seeds(values: Sequence[NDArray[np.float64]]) -> list[float]:
    stacked = np.stack(values)
    count = (~np.isnan(stacked)).sum(0)
    total = np.nansum(stacked, axis=0)
    return [float(t / c) if c else np.nan for t, c in zip(total, count, strict=True)]

