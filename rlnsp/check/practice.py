"""One optimiser step, tried and taken back: what the losses before and after it say, and whom they reach."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rlnsp.check.subject import kept
from rlnsp.optimisation import Optimisation, TrainingFailed, make_optimizer, present
from rlnsp.protocols import Algorithm, Policy, Stats
from rlnsp.settings import TrainerConfig
from rlnsp.types import Batch, Scene


@dataclass(frozen=True, kw_only=True)
class Practice:
    """What was seen on the way."""

    transitions: int
    first: Stats = field(default_factory=dict)
    """Before the step, against anchors that were replayed in the same micro-batches."""
    later: Stats = field(default_factory=dict)
    """After it, against the same anchors."""
    unreached: Sequence[str] = ()
    """Trained tensors whose gradient is exactly 0 before the step, and after it; where the step did not reach
    the velocity, those that no path leads to."""
    strangers: Sequence[str] = ()
    """The shapes of tensors that the loss has a gradient for, though nothing trains them.  Where there are
    any, no step is taken."""
    changed: bool = False
    """Whether the step changed a weight."""
    refused: str = ""
    """Why there was no step."""
    seconds: float = 0.0
    """Of the step, its forward and backward passes included."""
    anchor_seconds: float = 0.0
    """Of replaying the anchors."""


def practise(
    policy: Policy, algorithm: Algorithm, trainer: TrainerConfig, batch: Batch, scenes: Sequence[Scene]
) -> Practice:
    """Take the run's own optimiser step on ``batch``, look again, and put the weights back.

    Args:
        policy: in the precision that is tried.
        algorithm: its loss.
        trainer: learning rate and micro-batches of the run.
        batch: credited transitions.
        scenes: one for each row of the batch's condition.
    """
    trained = dict(policy.named_trainable())
    optimise = Optimisation(
        policy=policy,
        algorithm=algorithm,
        optimizer=make_optimizer(policy, trainer),
        config=replace(trainer, updates_per_rollout=1, minibatches=1),
    )
    with kept(policy):
        part = next(batch.split(trainer.micro_batch_size))
        leaves = reached(algorithm.loss(policy, present(policy, part, scenes))[0])
        own, found = {id(value) for value in trained.values()}, {id(leaf) for leaf in leaves}
        absent = {name for name, value in trained.items() if id(value) not in found}
        strangers = [str(tuple(leaf.shape)) for leaf in leaves if id(leaf) not in own]
        if strangers or not leaves:
            return Practice(transitions=len(batch), unreached=sorted(absent), strangers=strangers)
        start = time.perf_counter()
        batch = optimise.with_anchors(batch, scenes)
        anchored = time.perf_counter()
        first = optimise.accumulate(batch, scenes)
        silent = _without_gradient(policy)
        before = {name: value.detach().clone() for name, value in trained.items()}
        stepping = time.perf_counter()
        try:
            optimise(batch, scenes)
        except TrainingFailed as error:
            return Practice(transitions=len(batch), first=first, refused=str(error))
        done = time.perf_counter()
        later = optimise.accumulate(batch, scenes)
        lasting = _without_gradient(policy)
        if lasting == trained.keys():  # a clip stops what has moved so far: look from where it is now
            optimise.accumulate(optimise.with_anchors(batch, scenes), scenes)
            lasting = _without_gradient(policy)
        if not movement(later):  # a stale zero hides what lies behind it, and is another fault
            lasting = absent
        return Practice(
            transitions=len(batch),
            first=first,
            later=later,
            unreached=sorted(silent & lasting),
            changed=any(not torch.equal(before[name], value) for name, value in trained.items()),
            seconds=done - stepping,
            anchor_seconds=anchored - start,
        )


MEASURES = {"log_ratio_max": "max |log-ratio|", "velocity_change_max": "max |change of velocity|"}
"""What an algorithm logs of the distance from its anchors, and what that is."""


def movement(stats: Stats) -> float | None:
    """How far the policy is from the anchors, as the algorithm measures it; None if it does not say."""
    return next((stats[name] for name in MEASURES if name in stats), None)


def measure(stats: Stats) -> str:
    """What ``movement`` is, in words."""
    return next((words for name, words in MEASURES.items() if name in stats), "")


def reached(loss: Tensor) -> list[Tensor]:
    """The leaves that ``loss`` has a gradient for, whoever they belong to."""
    pending, seen, leaves = [loss.grad_fn], set(), []
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::AccumulateGrad":
            leaves.append(node.variable)  # pyright: ignore[reportAttributeAccessIssue]
        pending += [following for following, _ in node.next_functions]
    return leaves


def _without_gradient(policy: Policy) -> set[str]:
    return {name for name, value in policy.named_trainable() if value.grad is None or not value.grad.any()}
