"""``summary.json``: what a run came to, in one object."""

import math
from collections.abc import Mapping
from typing import Any

from rlnsp.evaluate import Evaluation, Interval, paired_difference


def summarise(
    status: str,
    finished: int,
    record: Mapping[str, Any],
    metric: str,
    after: Evaluation | None = None,
    error: str | None = None,
) -> dict[str, Any]:
    """The summary of a run.

    Args:
        status: done, interrupted or failed.
        finished: iterations.
        record: the run's statistics; ``before`` is the first evaluation, where there was one.
        metric: the reward that heads the summary, as it came, without its weight.
        after: the last evaluation.
        error: what went wrong.

    Returns:
        ``heldout`` has the metric, ``heldout_all`` every measure; ci95 is of ``after``, or of ``before``
        where there is no after.  Numbers that are not known are null.
    """
    before = Evaluation(**record["before"]) if "before" in record else None
    latest = after or before
    measures = {name: _measure(name, before, after) for name in (latest.scores if latest else [metric])}
    summary: dict[str, Any] = {
        "status": status,
        "steps": finished,
        "wall_s": round(record["wall_s"], 3),
        "reward": {"first": record["reward"].get("first"), "last": record["reward"].get("last")},
        "heldout": measures[metric],
        "heldout_all": measures,
        "how": latest.how if latest else None,
    }
    if error is not None:
        summary["error"] = error
    return summary


def _measure(name: str, before: Evaluation | None, after: Evaluation | None) -> dict[str, Any]:
    first = before.interval(name) if before else None
    last = after.interval(name) if after else None
    change = paired_difference(before, after, name) if before and after else None
    latest = last or first
    return {
        "metric": name,
        "n": latest.n if latest else 0,
        "before": _mean(first),
        "after": _mean(last),
        "ci95": _ends(latest),
        "before_ci95": _ends(first),
        "difference": _mean(change),
        "difference_ci95": _ends(change),
    }


def _mean(interval: Interval | None) -> float | None:
    return None if interval is None or math.isnan(interval.mean) else interval.mean


def _ends(interval: Interval | None) -> list[float] | None:
    return None if interval is None or math.isnan(interval.mean) else interval.ci95
