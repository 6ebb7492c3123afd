"""How sure a figure is, where samples come in groups.

Shapes: B samples. ``group`` is (B,), integers; samples of one scene share a number.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlnsp.maths.schedule import at_least_fp32


def standard_error(scores: Float[Tensor, " B"], group: Int[Tensor, " B"]) -> float:
    """The standard error of the mean score over scenes: s / sqrt(G), s the sample std of the groups' means.

    Samples of one scene are no independent draws; scenes are.

    Args:
        scores: (B,); NaN where the sample could not be scored.
        group: (B,).

    Returns:
        NaN where fewer than two groups have a score.
    """
    (scores,) = at_least_fp32(scores)
    scored = ~scores.isnan()
    numbers, index = torch.unique(group[scored], return_inverse=True)
    if len(numbers) < 2:
        return math.nan
    sums = scores.new_zeros(len(numbers)).scatter_add(0, index, scores[scored])
    means = sums / torch.bincount(index)
    return float(means.std() / math.sqrt(len(numbers)))
