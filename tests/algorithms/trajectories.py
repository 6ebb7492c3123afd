"""What the tests of algorithms on stochastic steps share: a toy's trajectory, and a policy that has moved."""

from dataclasses import replace

import torch

from rlnsp.randomness import Randomness
from rlnsp.rollout import rollout
from rlnsp.settings import SamplerConfig, WindowConfig
from rlnsp.testing import ToyPolicy
from rlnsp.types import Scene, Scores

SAMPLER = SamplerConfig(num_steps=4, window=WindowConfig(start=0, size=2))
SCENES = [Scene(id=f"s{i}", context=f"context {i}") for i in range(2)]


def toy():
    return ToyPolicy(ToyPolicy.Config())


def trajectory(policy=None, scenes=SCENES, sampler=SAMPLER):
    return rollout(policy or toy(), scenes, sampler, 3, Randomness(seed=0), chunk_size=6)


def scores(*values, **more):
    raw = {"r": torch.tensor(values)} | {name: torch.tensor(v) for name, v in more.items()}
    return Scores(raw=raw, weights=dict.fromkeys(raw, 1.0))


def gradient(loss, policy):
    values = [value for _, value in policy.named_trainable()]
    return [g if g is not None else torch.zeros_like(v) for g, v in zip(
        torch.autograd.grad(loss, values, allow_unused=True), values, strict=True)]  # fmt: skip


def largest(gradients):
    return max(float(g.abs().max()) for g in gradients)


def moved(policy, by=0.1):
    with torch.no_grad():
        for _, value in policy.named_trainable():
            value.add_(by)


def off_policy(algorithm, policy, by=0.1):
    """A batch of all transitions, whose old means are those of the policy before it moved."""
    batch, _ = algorithm.credit(trajectory(policy), scores(0.0, 1.0, 2.0, 5.0, 5.0, 8.0))
    moved(policy, by)
    return replace(batch, anchor=batch.rollout_mean)
