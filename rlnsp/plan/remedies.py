"""What to change where a plan does not fit: settings that cost time or nothing, tried one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from rlnsp.plan.estimate import Plan
from rlnsp.plan.spread import Spread
from rlnsp.settings import RunConfig


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """A setting, and the plan with it and all remedies before it."""

    override: str
    plan: Plan


Started = tuple[RunConfig, Spread]
"""A run, and what is spread over its devices."""
Change = Callable[[RunConfig], RunConfig]


def remedies(
    run: RunConfig,
    plan_of: Callable[[RunConfig, Spread], Plan],
    spread: Spread = "none",
    *,
    can_spread: bool = False,
) -> list[Remedy]:
    """Settings that together make the run fit, or all there are; none where it fits as it is.

    Those that lower no peak are left out.  First come those that change no number but memory and speed, then
    smaller iterations, which train otherwise.

    Args:
        run: what does not fit.
        plan_of: a run's plan.
        spread: what is spread over its devices.
        can_spread: whether several could hold the policy's weights together.
    """
    found: list[Remedy] = []
    before = plan_of(run, spread)
    candidates: list[tuple[str, Callable[[Started], Started]]] = [
        (override, _changed(change)) for override, change in _free(run)
    ]
    if can_spread and spread != "weights":
        candidates.append(("--spread weights", lambda now: (now[0], "weights")))
    candidates += [(override, _changed(change)) for override, change in _smaller(run, before.devices)]
    now: Started = run, spread
    for override, changed in candidates:
        if before.fits:
            break
        tried = changed(now)
        plan = plan_of(*tried)
        if plan.peak < before.peak:
            found.append(Remedy(override=override, plan=plan))
            now, before = tried, plan
    return found


def _changed(change: Change) -> Callable[[Started], Started]:
    return lambda now: (change(now[0]), now[1])


def _free(run: RunConfig) -> list[tuple[str, Change]]:
    """What changes no number but memory and speed."""
    own = run.policy.config
    candidates: list[tuple[str, Change]] = []
    for key, value, written in (
        ("dtype", "bf16", "bf16"),
        ("gradient_checkpointing", True, "true"),
        ("decode_batch_size", 1, "1"),
        ("offload", ["comprehension", "vae"], "[comprehension,vae]"),
    ):
        if key in own and own[key] != value:
            candidates.append((f"policy.config.{key}={written}", _policy(key, value)))
    for key in ("micro_batch_size", "rollout_batch_size"):
        at = getattr(run.trainer, key) or run.trainer.micro_batch_size
        while at > 1:
            at = at // 4 or 1
            candidates.append((f"trainer.{key}={at}", _trainer(key, at)))
    return candidates


def _smaller(run: RunConfig, devices: int) -> list[tuple[str, Change]]:
    """Smaller iterations."""
    candidates: list[tuple[str, Change]] = []
    size = run.sampler.window.size
    while size > 1:
        size //= 2
        candidates.append((f"sampler.window.size={size}", _window(size)))
    scenes = run.trainer.scenes_per_iteration
    while scenes % (2 * devices) == 0:  # each device has whole scenes
        scenes //= 2
        candidates.append(
            (f"trainer.scenes_per_iteration={scenes}", _trainer("scenes_per_iteration", scenes))
        )
    return candidates


def _policy(key: str, value: object) -> Change:
    return lambda run: replace(run, policy=replace(run.policy, config={**run.policy.config, key: value}))


def _trainer(key: str, value: int) -> Change:
    return lambda run: replace(run, trainer=replace(run.trainer, **{key: value}))


def _window(size: int) -> Change:
    return lambda run: replace(
        run, sampler=replace(run.sampler, window=replace(run.sampler.window, size=size))
    )
