"""How much each key of a sweep matters, where its design allows to say so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import Study

from rlnsp.sweep.design import SweepConfig
from rlnsp.sweep.outcome import CellOutcome, Outcome

INTERACTIONS, SEEDS = "interactions", "seeds"
FEWEST_DRAWN = 20
"""Cells, below which what a sampler drew says nothing of single keys."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Shares that add up to 1, or why there are none."""

    shares: Mapping[str, float] = field(default_factory=dict)
    said: str
    """Of what they are shares and how they were found, or why they were not."""


def importance(sweep: SweepConfig, outcome: Outcome, study: Study) -> Importance:
    """Of a grid a decomposition of the variance; of random cells Optuna's PED-ANOVA."""
    if sweep.sampler == "tpe":
        return Importance(said="Importance: not said. TPE draws near what was good, which is no fair sample.")
    if sweep.sampler == "random":
        return _drawn(outcome, study)
    counts = {len(cell.results) for cell in outcome.cells}
    if counts != {len(outcome.seeds)}:
        return Importance(
            said="Importance: not said. It needs every cell at every seed, and some are missing."
        )
    if len(outcome.cells) < 2:
        return Importance(said="Importance: not said. There is one cell.")
    shares = variance_shares([cell.factors for cell in outcome.cells], [cell.ends for cell in outcome.cells])
    if not shares:
        return Importance(said="Importance: not said. All runs ended alike.")
    of_arms = " An arm counts as a whole: its settings change together." if sweep.arms else ""
    return Importance(
        shares=shares,
        said="Shares of the variance of all runs' results: each key's main effect, what keys do together "
        f"({INTERACTIONS}), and what runs of one cell differ by ({SEEDS}). Each share holds some of the "
        f"noise, the more the fewer seeds.{of_arms}",
    )


def variance_shares(
    factors: Sequence[Mapping[str, object]], ends: Sequence[Sequence[float]]
) -> dict[str, float]:
    """The sums of squares of a full factorial design, over their total.

    With y the results, a main effect is the sum over its levels of n_level (mean_level - mean)^2.  In a
    balanced design main effects, interactions and the rest within cells add up to the total.

    Args:
        factors: of each cell, its level of each factor; every combination once.
        ends: of each cell, a result a seed; as many in each.

    Returns:
        By factor, in order of size, with interactions and seeds last; nothing where all results are equal.
    """
    y = np.array(ends, dtype=np.float64)
    cells, middle = y.mean(1), y.mean()
    total = float(((y - middle) ** 2).sum())
    if math.isclose(total, 0, abs_tol=1e-15):
        return {}
    shares = {}
    for name in factors[0]:
        levels = [str(one[name]) for one in factors]
        means = {level: cells[[other == level for other in levels]].mean() for level in levels}
        if len(means) > 1:
            shares[name] = sum((means[level] - middle) ** 2 for level in levels) * y.shape[1] / total
    between = float(((cells - middle) ** 2).sum() * y.shape[1] / total)
    ordered = dict(sorted(shares.items(), key=lambda one: -one[1]))
    rest = {INTERACTIONS: max(0.0, between - sum(shares.values()))} if len(shares) > 1 else {}
    return {**ordered, **rest, SEEDS: 1 - between}


def _drawn(outcome: Outcome, study: Study) -> Importance:
    done = [cell for cell in outcome.cells if cell.results]
    if len(done) < FEWEST_DRAWN:
        return Importance(
            said=f"Importance: not said. It needs {FEWEST_DRAWN} random cells, and {len(done)} are done."
        )
    if not _varied(done):
        return Importance(said="Importance: not said. All runs ended alike.")
    shares = optuna.importance.get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return Importance(
        shares=shares,
        said="Importance of each key for being among the best tenth of runs: Optuna's PED-ANOVA "
        "(arXiv:2304.10255).",
    )


def _varied(cells: Sequence[CellOutcome]) -> bool:
    return len({end for cell in cells for end in cell.ends}) > 1
