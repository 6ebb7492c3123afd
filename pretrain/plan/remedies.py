"""What to change where a stage does not fit: settings and flags, tried one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from pretrain.plan.estimate import StageRun
from rlnsp.plan.spread import Spread
from rlnsp.plan.stages import StagePlan, StageRemedy

Change = Callable[[StageRun], StageRun]
Tried = tuple[str, Change]
"""A setting or flag as it is written, and what it changes."""


def remedies(run: StageRun, plan_of: Callable[[StageRun], StagePlan], key: str) -> list[StageRemedy]:
    """Those that together make the stage fit, or all there are; none where it fits as it is.

    Of alternatives the first that fits is taken, or the one that lowers the peak most; what lowers no peak is
    left out.  Last comes what trains otherwise.

    Args:
        run: what does not fit.
        plan_of: a stage's plan.
        key: of the stage's settings, such as 'sft'.
    """
    found: list[StageRemedy] = []
    before = plan_of(run)
    for alternatives in (_precision(run, key), _spreading(run), _batch(run, key), _precompute(run)):
        if before.fits:
            return found
        run, before = _best(run, before, alternatives, plan_of, found)
    if not before.fits:  # for whether it may be depends on what is spread by now
        _best(run, before, _optimiser(run, key), plan_of, found)
    return found


def _best(
    run: StageRun,
    before: StagePlan,
    alternatives: Iterator[Tried],
    plan_of: Callable[[StageRun], StagePlan],
    found: list[StageRemedy],
) -> tuple[StageRun, StagePlan]:
    best: tuple[StageRun, StagePlan, str] | None = None
    for written, change in alternatives:
        tried = change(run)
        plan = plan_of(tried)
        if plan.peak < (best[1] if best else before).peak:
            best = tried, plan, written
        if plan.fits:
            break
    if best is None:
        return run, before
    found.append(StageRemedy(override=best[2], peak=best[1].peak, fits=best[1].fits))
    return best[0], best[1]


def _precision(run: StageRun, key: str) -> Iterator[Tried]:
    settings: dict[str, Any] = {}
    for name, value in (("precision", "bf16"), ("gradient_checkpointing", True)):
        if getattr(run.config, name) != value:
            settings[name] = value
            written = (f"{key}.{one}={str(own).lower()}" for one, own in settings.items())
            yield " ".join(written), _config(dict(settings))


def _spreading(run: StageRun) -> Iterator[Tried]:
    if run.devices.count == 1 or (run.optimizer == "adamw_8bit" and "transformer" in run.config.train):
        return
    if run.devices.spread == "none":
        yield "--spread gradients", _spread("gradients")
    if run.devices.spread != "weights":
        yield "--spread weights", _spread("weights")


def _batch(run: StageRun, key: str) -> Iterator[Tried]:
    at = min(run.config.micro_batch_size or run.clips, run.clips)
    while at > 1:
        at = at // 4 or 1
        yield f"{key}.micro_batch_size={at}", _config({"micro_batch_size": at})


def _precompute(run: StageRun) -> Iterator[Tried]:
    if run.data.clips == "stream":
        yield "--precompute", lambda now: replace(now, data=replace(now.data, clips="precomputed"))


def _optimiser(run: StageRun, key: str) -> Iterator[Tried]:
    if run.spreads_trained or run.optimizer == "adamw_8bit":
        return
    written = f"{key}.loop.optimizer=adamw_8bit"
    if run.optimizer == "prodigy":
        written += f" (and {key}.loop.learning_rate, which Prodigy finds itself)"
    yield written, lambda now: replace(now, optimizer="adamw_8bit")


def _config(settings: dict[str, Any]) -> Change:
    return lambda now: replace(now, config=replace(now.config, **settings))


def _spread(spread: Spread) -> Change:
    return lambda now: replace(now, devices=replace(now.devices, spread=spread))
