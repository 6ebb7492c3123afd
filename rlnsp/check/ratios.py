"""The ratio: 1 where nothing changed, near 1 against the rollout, and not 1 after a step."""

from __future__ import annotations

from dataclasses import replace

import torch

from rlnsp.check.practice import MEASURES, Practice, measure, movement, practise
from rlnsp.check.report import Finding, note, right, wrong
from rlnsp.check.subject import Subject
from rlnsp.optimisation import present
from rlnsp.precision import in_precision
from rlnsp.types import Batch

USUAL_CLIP = 1e-4
"""What drift is compared with where an algorithm has no clip of its own."""
UNSEEN = f"the algorithm logs neither {' nor '.join(MEASURES)}, so this cannot be seen"
FEW = 4
"""Transitions that the precision which the run does not use is tried on."""


def stored_latents(subject: Subject) -> Finding:
    """What a loss sees is fp32, and was not rounded on the way."""
    batch = subject.batch
    for name, value in (("x", batch.x), ("x_next", batch.x_next)):
        if value.dtype in (torch.float16, torch.bfloat16):
            return _rounded(name, str(value.dtype).removeprefix("torch."))
        for coarse in (torch.bfloat16, torch.float16):
            if name == "x_next" and torch.equal(value, value.to(coarse).to(value.dtype)):
                return _rounded(name, str(coarse).removeprefix("torch."))
    return right(f"{str(batch.x_next.dtype).removeprefix('torch.')}, not rounded")


def _rounded(name: str, dtype: str) -> Finding:
    return wrong(
        f"the {name} of recorded steps is in {dtype}: steps are finer than that, and their ratio is biased",
        "keep latents in fp32 from the rollout to the loss; only the network's forward may be coarser",
    )


def first_ratio(subject: Subject, practice: Practice) -> Finding:
    """The same weights on the same latents in the same micro-batches: exactly 1."""
    size = min(subject.config.trainer.micro_batch_size, practice.transitions)
    moved = movement(practice.first)
    if moved is None:
        return note(UNSEEN)
    says = f"{measure(practice.first)} {moved:.3g} in {practice.transitions} steps, {size} at a time"
    if moved:
        return wrong(
            f"{says}: it must be exactly 0 before any update",
            "something in the policy is random or keeps state: put it in eval mode; turn off dropout, random "
            "kernels and caches that change",
            {"movement": moved},
        )
    return right(says, {"movement": moved})


def drift(subject: Subject) -> Finding:
    """How far the replay is from the rollout: at the training micro-batch, at half of it, and from bf16."""
    rows, clip = subject.rows(subject.config.trainer.micro_batch_size), subject.clip or USUAL_CLIP
    if rows.rollout_mean is None:
        return note("the algorithm trains on the forward process: how the rollout rounded plays no part")
    size = len(rows)
    trained, other = (_drift(subject, rows, part) for part in (size, max(1, size // 2)))
    coarse = replace(rows, x=rows.x.bfloat16().float(), x_next=rows.x_next.bfloat16().float())
    stored = _drift(subject, coarse, size)
    figures = {"as_trained": trained, "half_micro_batch": other, "if_stored_in_bf16": stored, "clip": clip}
    says = (
        f"max |log-ratio| to the rollout {trained:.2g} in micro-batches of {size}, {other:.2g} of "
        f"{max(1, size // 2)}; the clip is {clip:.2g}; latents stored in bf16 would make it {stored:.2g}"
    )
    if not max(trained, other) <= clip:
        return wrong(
            says,
            "kernels depend on the batch or are too coarse: trainer.precision=fp32; no batch statistics and "
            "no padding that depends on the batch; or trainer.micro_batch_size=1",
            figures,
        )
    return right(says, figures)


def _drift(subject: Subject, batch: Batch, size: int) -> float:
    """The largest |log-ratio| of the policy against the means that the rollout itself had."""
    algorithm, found = subject.algorithm(), 0.0
    for part in batch.split(size):
        seen = present(subject.policy, replace(part, anchor=part.rollout_mean), subject.scenes)
        _, stats = algorithm.loss(subject.policy, seen)
        found = max(found, movement(stats) or 0.0)
    return found


def moves(subject: Subject, practice: Practice) -> Finding:
    """After an optimiser step the ratio is no longer 1, in either precision."""
    trainer = subject.config.trainer
    other = "bf16" if trainer.precision == "fp32" else "fp32"
    tried = practise(
        in_precision(subject.bare, other),
        subject.algorithm(),
        trainer,
        subject.rows(min(FEW, trainer.micro_batch_size)),
        subject.scenes,
    )
    found = {trainer.precision: movement(practice.later), other: movement(tried.later)}
    if None in found.values():
        return note(UNSEEN)
    listed = ", ".join(f"{value:.3g} in {name}" for name, value in found.items())
    figures = {f"movement_{name}": value for name, value in found.items() if value is not None}
    if not all(found.values()):
        return wrong(
            f"{measure(tried.later)} after one step: {listed}: weights moved, and the policy did not",
            "a stale copy of the weights is used: open autocast round a forward, never round a step, or with "
            "cache_enabled=False; cache and merge nothing that a step changes.  Or the learning rate is tiny",
            figures,
        )
    return right(f"{measure(tried.later)} after one step: {listed}", figures)


def clip(subject: Subject) -> Finding:
    """What the clip means for a latent of this size."""
    dims = subject.latent_dims
    try:
        found = subject.clip
    except ValueError as error:
        return wrong(str(error), "lower algorithm.config.clip_nats, or use clip")
    if found is None:
        return note(
            f"the algorithm has none; a latent has {dims:,} dimensions", figures={"latent_dims": dims}
        )
    figures = {"clip": found, "clip_nats": found * dims, "latent_dims": dims}
    says = f"{found:.3g} on the mean of {dims:,} latent dimensions is {found * dims:.3g} nats of the joint"
    trainer = subject.config.trainer
    if trainer.updates_per_rollout * trainer.minibatches == 1:
        return note(f"{says}; with one update a rollout the ratio is 1 and it cannot act", figures=figures)
    return right(says, figures)
