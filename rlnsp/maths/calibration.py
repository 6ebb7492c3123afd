"""How good a judge's probabilities are, and how far two judges agree.

Shapes: B clips.  ``probability`` is (B,), of passing; ``passes`` is (B,) bool, what is so.
"""

import math
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from rlnsp.maths.schedule import at_least_fp32


@dataclass(frozen=True)
class Bin:
    """The clips whose probability lies in one interval."""

    low: float
    high: float
    count: int
    probability: float
    """Their mean; NaN where there is none."""
    passed: float
    """The share that passes; NaN where there is none."""


def brier_score(probability: Float[Tensor, " B"], passes: Bool[Tensor, " B"]) -> float:
    """mean((p - y)^2), y in {0, 1}; 0 is perfect, 0.25 is a constant 1/2.  Brier, 1950."""
    (probability,) = at_least_fp32(probability)
    return float((probability - passes.to(probability)).square().mean())


def reliability(probability: Float[Tensor, " B"], passes: Bool[Tensor, " B"], bins: int = 10) -> list[Bin]:
    """What is so, by what was said: ``bins`` intervals of one width, the last with its upper end.

    Guo et al., 2017, arXiv:1706.04599, the reliability diagram.
    """
    (probability,) = at_least_fp32(probability)
    place = (probability * bins).floor().clamp(0, bins - 1).long()
    found = []
    for number in range(bins):
        inside = place == number
        count = int(inside.sum())
        said = float(probability[inside].mean()) if count else math.nan
        true = float(passes[inside].to(probability).mean()) if count else math.nan
        found.append(Bin(number / bins, (number + 1) / bins, count, said, true))
    return found


def expected_calibration_error(bins: list[Bin]) -> float:
    """sum over bins of n_b / n |share that passes - mean probability|; arXiv:1706.04599, equation 3."""
    total = sum(one.count for one in bins)
    return sum(one.count / total * abs(one.passed - one.probability) for one in bins if one.count)


def cohens_kappa(one: Bool[Tensor, " B"], other: Bool[Tensor, " B"]) -> float:
    """(p_o - p_e) / (1 - p_e): agreement beyond chance, 1 at most.  Cohen, 1960.

    Args:
        one: (B,) the verdicts of one judge.
        other: (B,) the verdicts of the other.

    Returns:
        p_o is the share on which they agree, p_e what two judges would who pass as many at random.  NaN where
        both give one and the same verdict throughout, and nothing can be told.
    """
    observed = float((one == other).double().mean())
    a, b = float(one.double().mean()), float(other.double().mean())
    expected = a * b + (1 - a) * (1 - b)
    return (observed - expected) / (1 - expected) if expected < 1 else math.nan
