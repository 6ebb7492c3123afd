"""Which curves a report draws, and what each says."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from rlnsp.evaluate import LOWER_IS_BETTER
from rlnsp.report.figures import Curve, chart, moving_average
from rlnsp.report.runs import ReportedRun, known

Z95 = 1.96
SMOOTHED_OVER = 20
"""An average is over a ``SMOOTHED_OVER``th of a run."""
DIAGNOSTICS = {
    "ratio": "The likelihood of recorded steps, new over old. Exactly 1 with one update a rollout.",
    "clip_fraction": "The share of transitions at which the clip held the update back.",
    "approx_kl": "How far an iteration's updates moved the policy, in nats a latent dimension.",
    "grad_norm": "The gradient's norm before it is clipped.",
    "zero_variance_groups": "The share of groups whose samples all scored the same: they teach nothing.",
    "dropped": "The share of samples that could not be scored.",
    "advantage_std": "The spread of advantages.",
    "loss": "The loss; near 0 for a policy gradient, whatever is learned.",
}
"""What is always drawn first, where the algorithm logs it; the rest follows without a word."""
NOT_DRAWN = ("iteration", "samples", "transitions", "reward", "reward_error")


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawing with its words."""

    name: str
    says: str
    svg: Markup


@dataclass(frozen=True, kw_only=True)
class Charts:
    """All of a report's drawings."""

    reward: list[Chart] = field(default_factory=list)
    heldout: list[Chart] = field(default_factory=list)
    diagnostics: list[Chart] = field(default_factory=list)
    others: list[Chart] = field(default_factory=list)


def curves(runs: Sequence[ReportedRun]) -> Charts:
    """The drawings, each with all runs that have the metric."""
    names = dict.fromkeys(name for run in runs for line in run.iterations for name in line)
    singles = [name for name in names if name.startswith("reward/")]
    rest = [
        name
        for name in names
        if name not in {*DIAGNOSTICS, *NOT_DRAWN, *singles} and any(run.curve(name)[0] for run in runs)
    ]
    measures = dict.fromkeys(
        name for run in runs for kept in run.evaluations for name in kept.evaluation.scores
    )
    return Charts(
        reward=_drawn("reward", "", [_reward(run, number) for number, run in enumerate(runs)]),
        heldout=[
            one
            for name in measures
            for one in _drawn(
                name, _direction(runs, name), [_heldout(run, i, name) for i, run in enumerate(runs)]
            )
        ],
        diagnostics=[one for name, says in DIAGNOSTICS.items() for one in _plain(runs, name, says)],
        others=[
            one for name in [*(singles if len(singles) > 1 else []), *rest] for one in _plain(runs, name, "")
        ],
    )


def _direction(runs: Sequence[ReportedRun], measure: str) -> str:
    negative = any(run.rewards.get(measure, 0) < 0 for run in runs)
    return "Lower is better." if measure in LOWER_IS_BETTER or negative else ""


def _plain(runs: Sequence[ReportedRun], name: str, says: str) -> list[Chart]:
    drawn = [(number, *run.curve(name)) for number, run in enumerate(runs)]
    return _drawn(name, says, [Curve(number=number, x=x, y=y) for number, x, y in drawn])


def _reward(run: ReportedRun, number: int) -> Curve:
    """The moving average with its 95% band, over each iteration's own mean.

    The band counts scenes as the independent draws they are.
    """
    x, y = run.curve("reward")
    measured, errors = run.curve("reward_error")
    window = max(1, len(x) // SMOOTHED_OVER)
    if measured != x:  # an iteration of one scene has no error
        means, _ = moving_average(y, [0.0] * len(y), window)
        return Curve(number=number, x=x, y=means, behind=y)
    means, spreads = moving_average(y, errors, window)
    low = [mean - Z95 * error for mean, error in zip(means, spreads, strict=True)]
    high = [mean + Z95 * error for mean, error in zip(means, spreads, strict=True)]
    return Curve(number=number, x=x, y=means, low=low, high=high, behind=y)


def _heldout(run: ReportedRun, number: int, measure: str) -> Curve:
    taken = [
        (kept.iteration, kept.evaluation.interval(measure))
        for kept in run.evaluations
        if known(kept.evaluation.scores.get(measure, []))
    ]
    return Curve(
        number=number,
        x=[iteration for iteration, _ in taken],
        y=[one.mean for _, one in taken],
        low=[one.low for _, one in taken],
        high=[one.high for _, one in taken],
        as_bars=True,
    )


def _drawn(name: str, says: str, found: Sequence[Curve]) -> list[Chart]:
    """The chart, or none where no run has a point."""
    shown = [curve for curve in found if curve.y]
    if not shown:
        return []
    ends = "; ".join(
        f"{curve.y[0]:.3g} at {curve.x[0]:g} to {curve.y[-1]:.3g} at {curve.x[-1]:g}" for curve in shown
    )
    return [Chart(name=name, says=says, svg=Markup(chart(shown, f"{name}: {ends}")))]
