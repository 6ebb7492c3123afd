"""How sure the differences between cells are, where a cell was trained at a few seeds.

Shapes: S seeds, N scenes, P pairs of cells.  A cell's scores are (S, N), one a seed and held-out scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
RESAMPLES = 10_000
_CHUNK = 1_000

Scores = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SeedMean:
    """A mean over seeds with its t interval; without one where there is one seed."""

    mean: float
    low: float | None
    high: float | None
    n: int
    """Seeds."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much higher a cell is than the baseline, on the same seeds and scenes."""

    mean: float
    low: float
    high: float
    """The ends of its own 95% interval."""
    p: float
    """Two-sided, that there is no difference; of this comparison alone."""
    seeds: int
    scenes: int


def over_seeds(means: Sequence[float]) -> SeedMean:
    """The mean, and mean +- t(0.975, S - 1) s / sqrt(S): Student's interval.

    Args:
        means: S of them, a run's mean each.
    """
    n, middle = len(means), float(np.mean(means))
    if n < 2:
        return SeedMean(mean=middle, low=None, high=None, n=n)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * np.std(means, ddof=1) / np.sqrt(n))
    return SeedMean(mean=middle, low=middle - half, high=middle + half, n=n)


def paired_difference(
    baseline: Scores, other: Scores, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """The mean difference and its bootstrap over seeds and scenes, each resampled on its own.

    Rows and columns are resampled at once, which is Owen's pigeonhole bootstrap (Annals of Applied Statistics
    2007, doi:10.1214/07-AOAS122); it errs to the wide side.  S resampled seeds have a variance too small by
    (S - 1) / S, so seeds' deviations are stretched by sqrt(S / (S - 1)) first.  The standard deviation of the
    resampled means is the standard error.  Few seeds know it badly, so that interval and p are Student's t,
    with Satterthwaite's degrees of freedom (Biometrics Bulletin 1946)

        (V_s + V_n)^2 / (V_s^2 / (S - 1) + V_n^2 / (N - 1)),      V_s = var(seeds' means) / S, V_n likewise

    which are near S - 1 where seeds differ much and near N - 1 where they do not.

    Args:
        baseline: (S, N); NaN where a scene could not be measured.
        other: (S, N), of the same seeds and scenes.
        resamples: how many.
        seed: of the bootstrap; the interval of given scores is always the same.

    Returns:
        Over the scenes that were measured in every run.

    Raises:
        ValueError: the shapes differ, or no scene was measured in every run.
    """
    if baseline.shape != other.shape:
        raise ValueError(f"scores of different shapes cannot be paired: {baseline.shape} and {other.shape}")
    whole = other - baseline
    whole = whole[:, ~np.isnan(whole).any(0)]
    if not whole.size:
        raise ValueError("no scene was measured in every run")
    num_seeds, num_scenes = whole.shape
    middle = float(whole.mean())
    stretch = np.sqrt(num_seeds / (num_seeds - 1)) if num_seeds > 1 else 1.0
    stretched = whole + (stretch - 1) * (whole.mean(1, keepdims=True) - middle)
    rng = np.random.default_rng(seed)
    drawn = np.concatenate(
        [_resampled(stretched, min(_CHUNK, resamples - done), rng) for done in range(0, resamples, _CHUNK)]
    )
    error, df = float(drawn.std()), _degrees_of_freedom(whole)
    half = float(stats.t.ppf((1 + LEVEL) / 2, df)) * error
    certain = float(middle == 0)  # where the difference is the same everywhere
    p = 2 * float(stats.t.sf(abs(middle) / error, df)) if error > 0 else certain
    return Difference(
        mean=middle, low=middle - half, high=middle + half, p=p, seeds=num_seeds, scenes=num_scenes
    )


def _degrees_of_freedom(differences: Scores) -> float:
    """Satterthwaite's, of the mean of (S, N) with an effect a row and an effect a column; at least 1."""
    spreads, freedoms = [], []
    for axis in (1, 0):
        means = differences.mean(axis)
        if len(means) > 1:
            spreads.append(means.var(ddof=1) / len(means))
            freedoms.append(len(means) - 1)
    weights = sum(spread**2 / freedom for spread, freedom in zip(spreads, freedoms, strict=True))
    return float(sum(spreads) ** 2 / weights) if weights else 1.0


def _resampled(scores: Scores, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(count,): means of ``scores`` with rows, and apart from them columns, drawn with replacement."""
    seeds, scenes = (rng.multinomial(n, np.full(n, 1 / n), size=count) / n for n in scores.shape)
    return ((seeds @ scores) * scenes).sum(1)


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted for how many they are: any is below 0.05 by chance in at most 1 of 20 sweeps.

    Holm (Scandinavian Journal of Statistics, 1979): the k-th smallest of P, from 0, becomes the largest of
    (P - j) p_j over j <= k, at most 1.

    Args:
        p: P of them.
    """
    order = np.argsort(p)
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = largest
    return adjusted
