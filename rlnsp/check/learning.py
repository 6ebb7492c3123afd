"""What a step does: whom the gradient reaches, whether weights change, and the pull to the reference."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rlnsp.check.practice import Practice
from rlnsp.check.report import Finding, note, right, wrong
from rlnsp.check.subject import Subject, kept
from rlnsp.optimisation import present
from rlnsp.types import Batch

FEW = 8
"""Transitions that the divergence from the reference is tried on."""
NUDGE = 1e-2
"""Of the trained weights, away from the reference, where the divergence has no gradient."""


def gradient(subject: Subject, practice: Practice) -> Finding:
    """For every trained tensor, at the first step or, where another's zero hides it, the second; no other."""
    count = sum(1 for _ in subject.bare.named_trainable())
    figures = {
        "tensors": count,
        "without_gradient": len(practice.unreached),
        "others": len(practice.strangers),
    }
    if practice.unreached:
        return wrong(
            f"does not reach {len(practice.unreached)} of {count} trained tensors: {practice.unreached[0]}",
            "velocity must use what named_trainable lists, outside no_grad, and copy nothing of it; else do "
            "not train it",
            figures,
        )
    if practice.strangers:
        return wrong(
            f"reaches {len(practice.strangers)} tensors that nothing trains, such as one of shape "
            f"{practice.strangers[0]}",
            "requires_grad_(False) on what is frozen: its gradient costs time and memory and is never used",
            figures,
        )
    return right(f"reaches all {count} trained tensors, and nothing else", figures)


def step(subject: Subject, practice: Practice) -> Finding:
    """The optimiser's step changes a weight."""
    if practice.refused:
        return wrong(
            practice.refused, "look at the loss's parts one by one; lower the learning rate or the clip"
        )
    rate = subject.config.trainer.learning_rate
    if not practice.changed:
        return wrong(
            f"at trainer.learning_rate {rate:g} it changes no weight",
            "raise the rate, or keep trained weights in fp32",
        )
    return right(f"at trainer.learning_rate {rate:g} it changes weights")


def reference(subject: Subject) -> Finding:
    """The divergence from the policy before RL has a gradient, in proportion to its coefficient."""
    coefficient = subject.config.algorithm.config.get("kl_coefficient")
    if coefficient is None:
        return note("the algorithm has no kl_coefficient")
    # Without advantages nothing else pulls.
    batch = subject.rows(min(FEW, subject.config.trainer.micro_batch_size))
    batch = replace(batch, advantage=torch.zeros_like(batch.advantage))
    with kept(subject.policy):
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for _, value in subject.policy.named_trainable():
                value.add_(NUDGE * torch.randn(value.shape, generator=generator).to(value))
        none, half, whole = (_pull(subject, batch, part) for part in (0.0, 0.5, 1.0))
    full, part = float((whole - none).norm()), float((half - none).norm())
    says = f"kl_coefficient is {coefficient:g}"
    figures = {"kl_coefficient": coefficient, "gradient_norm": full}
    fault = wrong if coefficient else note
    if not full > 0:
        return fault(
            f"{says}, but its term has no gradient",
            "compute the policy's side of the divergence outside no_grad, and detach the reference's alone",
            figures,
        )
    if abs(part / full - 0.5) > 0.01:
        return fault(
            f"{says}, but half of it pulls {part / full:.3g} times as much",
            "the term must be the coefficient times the divergence, so that it vanishes with it",
            figures,
        )
    return right(f"{says}; its term has a gradient and vanishes with it", figures)


def _pull(subject: Subject, batch: Batch, coefficient: float) -> Tensor:
    """The loss's gradient with this coefficient, all trained tensors in one."""
    policy = subject.policy
    trained = [value for _, value in policy.named_trainable()]
    loss, _ = subject.algorithm(coefficient).loss(policy, present(policy, batch, subject.scenes))
    if not loss.requires_grad:
        return torch.zeros(1, device=loss.device)
    grads = torch.autograd.grad(loss, trained, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(v) if g is None else g).flatten().float()
            for v, g in zip(trained, grads, strict=True)
        ]
    )
