"""Latents that are given and not made count for nothing, in any algorithm."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch.nn import Parameter

from rlnsp.randomness import Randomness
from rlnsp.rollout import rollout
from rlnsp.types import Condition
from tests.algorithms.test_every_algorithm import NAMES, VALUES, made
from tests.algorithms.trajectories import SAMPLER, SCENES, scores

TOKENS, KNOWN, CHANNELS = 6, 2, 4


class Tokenwise:
    """Each token's velocity is its own affair, so that a clip without the known ones is a smaller clip."""

    def __init__(self):
        self.weight = Parameter(torch.linspace(0.1, 0.9, CHANNELS))
        self.before = self.weight.detach().clone()
        self.in_reference = False

    def encode(self, scenes):
        rows = torch.zeros(len(scenes), 1, 1)
        seen = torch.ones(len(scenes), 1, dtype=torch.bool)
        first = torch.randn(len(scenes), KNOWN, CHANNELS, generator=torch.Generator().manual_seed(1))
        return Condition(embeds=rows, mask=seen, null_embeds=rows[:1], null_mask=seen[:1], first=first)

    def sigmas(self, num_steps):
        return torch.linspace(1, 0, num_steps + 1)

    def noise(self, n, generator):
        return torch.randn(n, TOKENS, CHANNELS, generator=generator)

    def velocity(self, x, sigma, condition, guidance_scale=1.0):
        v = (x * (self.before if self.in_reference else self.weight)).tanh()
        if condition.first is None:
            return v
        known = (x[:, :KNOWN] - condition.first) / sigma[:, None, None]
        return torch.cat([known, v[:, KNOWN:]], 1)

    @contextmanager
    def reference(self):
        self.in_reference = True
        yield
        self.in_reference = False


def without_known(batch):
    """The batch of clips of the other tokens alone."""
    cut = {
        name: getattr(batch, name)[:, KNOWN:]
        for name in ("x", "x_next", "rollout_mean", "anchor")
        if getattr(batch, name) is not None
    }
    return replace(batch, **cut, condition=replace(batch.condition, first=None))


BITING = [("grpo", {"clip_nats": 0.02}), ("flow_dppo", {"max_divergence": 3e-5})]
"""Limits that some steps meet if what was given is left out, and others if it is not."""


@pytest.mark.parametrize(("name", "limits"), [*((name, {}) for name in NAMES), *BITING])
def test_a_clip_teaches_what_it_would_without_the_latents_that_it_was_given(name, limits):
    policy, algorithm = Tokenwise(), made(name, kl_coefficient=0.5, **limits)
    with torch.no_grad():
        trajectory = rollout(policy, SCENES, SAMPLER, 3, Randomness(seed=0), chunk_size=6, decode=False)  # pyright: ignore[reportArgumentType]
        batch, _ = algorithm.credit(trajectory, scores(*VALUES))
        batch = replace(batch, anchor=algorithm.anchor(policy, batch))
        policy.weight.add_(torch.tensor([0.02, -0.01, 0.03, 0.01]))
    found = []
    for one in (batch, without_known(batch)):
        loss, stats = algorithm.loss(policy, one)
        (gradient,) = torch.autograd.grad(loss, policy.weight)
        found.append((loss, gradient, stats))
    (whole, of_whole, said), (cut, of_cut, said_of_cut) = found
    torch.testing.assert_close(whole, cut)
    torch.testing.assert_close(of_whole, of_cut)
    of_moves = {"approx_kl", "log_ratio_max", "drift_max", "ratio", "clip_fraction", "kl_reference"}
    for key in of_moves & set(said):
        assert said[key] == pytest.approx(said_of_cut[key], rel=1e-4), key


def test_every_rule_ends_at_what_was_given():
    trajectory = rollout(Tokenwise(), SCENES, SAMPLER, 3, Randomness(seed=0), chunk_size=6, decode=False)  # pyright: ignore[reportArgumentType]
    given = trajectory.condition.take(trajectory.group).first
    torch.testing.assert_close(trajectory.latents[:, :KNOWN], given, atol=1e-5, rtol=0)
