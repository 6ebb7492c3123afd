"""The ablation's table: what a row holds, what must be true of the rows, and how they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.table import Table

from rlnsp.evaluate import DISTANCE, Evaluation, Interval, paired_difference

REWARD = "nsp_reward"
WITHOUT, PRETRAINED, SFT, RL = "no pre-training", "pre-training only", "+ SFT", "+ RL"
CONTROL = "+ RL, reward negated"
PAPER = {WITHOUT: 0.06, PRETRAINED: 0.54, SFT: 0.60, RL: 0.73}
MARKS = "<!-- ablation -->", "<!-- /ablation -->"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: one policy, or the mean of several trained with different seeds."""

    name: str
    evaluations: Sequence[Evaluation]
    compared_to: Row | None = None
    """The row that the difference is to."""

    @property
    def pooled(self) -> Evaluation:
        """Scene by scene, the mean over the policies."""
        scores = {
            measure: np.mean([one.scores[measure] for one in self.evaluations], axis=0).tolist()
            for measure in self.evaluations[0].scores
        }
        return replace(self.evaluations[0], scores=scores)

    def interval(self, measure: str) -> Interval:
        """The mean over scenes."""
        return self.pooled.interval(measure)

    def difference(self, measure: str) -> Interval | None:
        """How much higher than the row that it is compared to, scene by scene."""
        if self.compared_to is None:
            return None
        return paired_difference(self.compared_to.pooled, self.pooled, measure)

    def to_json(self) -> dict[str, Any]:
        """Every figure of the row; ``runs`` has the means of the single policies."""
        found: dict[str, Any] = {"name": self.name, "paper": PAPER.get(self.name)}
        for measure in (REWARD, DISTANCE):
            one, change = self.interval(measure), self.difference(measure)
            found[measure] = {"mean": one.mean, "ci95": one.ci95, "n": one.n}
            found[measure]["runs"] = [each.interval(measure).mean for each in self.evaluations]
            found[measure]["difference"] = None if change is None else change.mean
            found[measure]["difference_ci95"] = None if change is None else change.ci95
        return found | {"compared_to": self.compared_to and self.compared_to.name}


def claims(rows: Sequence[Row]) -> dict[str, bool]:
    """What must hold of the table for it to say that the reward teaches what it rewards."""
    by_name = _named(rows)
    better, worse = by_name[RL].difference(REWARD), by_name[CONTROL].difference(REWARD)
    further = by_name[RL].difference(DISTANCE)
    assert better is not None
    assert worse is not None
    assert further is not None
    return {
        "RL raises consistency": better.low > 0,
        "RL with the reward negated lowers consistency": worse.high < 0,
        "RL does not move clips away from the true futures": further.low <= 0,
    }


def table(rows: Sequence[Row]) -> Table:
    """For the terminal."""
    made = Table(title=title(rows), title_justify="left")
    for column in ("", "paper", "here", "95% interval", "difference", "distance to future"):
        made.add_column(column, justify="right" if column else "left")
    for cells in _cells(rows):
        made.add_row(*cells)
    return made


def markdown(rows: Sequence[Row]) -> str:
    """For the README and the page."""
    head = "| | paper | here | 95% interval | more than the row it starts from | distance |"
    lines = [head, "|---|---|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in _cells(rows))])


def page(rows: Sequence[Row], iterations: int) -> str:
    """docs/stages.md.

    Args:
        rows: as shown.
        iterations: of the control.
    """
    runs = ", ".join(f"{one.interval(REWARD).mean:.3f}" for one in _named(rows)[RL].evaluations)
    said = "\n".join(f"- {claim}: {'yes' if holds else '**no**'}" for claim, holds in claims(rows).items())
    return f"""# What each stage brings

Written by `make ablation`; the numbers with all digits are in [stages.json](stages.json).

{title(rows)}

{markdown(rows)}

- *paper*: Li et al., arXiv:2512.13015: the same stages of a 7B + 2B model on real video, judged by a language
  model. The two columns are of different worlds; what compares is their order.
- *{WITHOUT}*: queries, connector and DiT as initialised, then stage 2's own budget.
- *{PRETRAINED}*: stage 1's policy, asked with the prompt of next-scene prediction, which it has not seen.
- *{SFT}*: the shipped policy.
- *{RL}*: `rlnsp train --reward {REWARD}`. The mean of runs with different seeds; one by one: {runs}.
- *{CONTROL}*: the same with weight -1 and {iterations} iterations, compared to {SFT}. A control: training
  that follows the reward must fall here.
- *95% interval*: bootstrap over scenes. It does not hold the spread between runs, which the list above shows.
- *distance*: mean absolute difference of pixels, in [0, 1], to the nearest of eight true futures; lower is
  better. No reward looks at it.

What the command checks (its exit code is 1 if one does not hold):

{said}
"""


def title(rows: Sequence[Row]) -> str:
    """What was measured, and how."""
    one = rows[0].evaluations[0]
    return (
        f"Held-out causal consistency: {len(one.scene_ids)} scenes of unseen compositions x "
        f"{len(one.how['seeds'])} seeds, deterministic sampler, {one.how['num_steps']} steps, "
        "judged by the tracker."
    )


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    cells = []
    for one in rows:
        here, change, paper = one.interval(REWARD), one.difference(REWARD), PAPER.get(one.name)
        cells.append(
            [
                one.name,
                "" if paper is None else f"{paper:.2f}",
                f"{here.mean:.3f}",
                f"{here.low:.3f} to {here.high:.3f}",
                "" if change is None else f"{change.mean:+.3f} ({change.low:+.3f} to {change.high:+.3f})",
                f"{one.interval(DISTANCE).mean:.4f}",
            ]
        )
    return cells


def _named(rows: Sequence[Row]) -> dict[str, Row]:
    return {one.name: one for one in rows}
