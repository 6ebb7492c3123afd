"""The conformance tests pass what is right and say what is wrong."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rlnsp.algorithms.grpo import GRPO
from rlnsp.testing import ToyPolicy, check_algorithm, check_policy, check_reward
from rlnsp.types import Sample, Scene, Video

SCENES = [Scene(id=f"s{i}", context=f"context {i}") for i in range(3)]
SAMPLES = [
    Sample(scene=scene, frames=np.full((2, 4, 4, 3), 20 * i + j, np.uint8), fps=8.0)
    for i, scene in enumerate(SCENES)
    for j in range(2)
]


@pytest.mark.parametrize("train_encoder", [False, True])
def test_the_toy_policy_keeps_to_the_seam(train_encoder):
    check_policy(ToyPolicy(ToyPolicy.Config(train_encoder=train_encoder)), SCENES)


def test_checking_a_policy_leaves_its_weights_alone():
    policy = ToyPolicy(ToyPolicy.Config())
    before = [value.detach().clone() for _, value in policy.named_trainable()]
    check_policy(policy, SCENES)
    assert all(torch.equal(a, b) for a, (_, b) in zip(before, policy.named_trainable(), strict=True))


def velocity_of(change):
    def velocity(self, x, sigma, condition, guidance_scale=1.0):
        return change(ToyPolicy.velocity(self, x, sigma, condition, guidance_scale))

    return velocity


def deaf_to_guidance(self, x, sigma, condition, guidance_scale=1.0):
    return ToyPolicy.velocity(self, x, sigma, condition, 1.0) + (guidance_scale == 2.0)


def knows_more_than_it_keeps_to(self, scenes):
    return replace(ToyPolicy.encode(self, scenes), first=torch.ones(len(scenes), 1, 3))


WRONG = [
    ("encode", knows_more_than_it_keeps_to, "latents that the condition knows must be"),
    ("sigmas", lambda self, n: torch.linspace(0, 1, n + 1), "must begin at 1"),
    ("sigmas", lambda self, n: torch.linspace(1, 0, n), "one more than steps"),
    ("noise", lambda self, n, g: torch.randn(n, 32, 3), "from its generator alone"),
    ("noise", lambda self, n, g: 2 * torch.randn(n, 32, 3, generator=g), "standard normal"),
    ("encode", lambda self, scenes: ToyPolicy.encode(self, scenes[:1]), "a row a scene"),
    ("encodes_with_trained_parts", lambda self: True, "has gradient: False"),
    ("velocity", velocity_of(lambda v: v.bfloat16()), "must be fp32"),
    ("velocity", velocity_of(lambda v: v + torch.rand(())), "the same velocity"),
    ("velocity", velocity_of(lambda v: v - v.mean(0)), "must not depend on the other rows"),
    ("velocity", deaf_to_guidance, "guidance w"),
    ("velocity", velocity_of(lambda v: v.detach().requires_grad_()), "no gradient"),
    ("named_trainable", lambda self: iter([]), "at least one parameter"),
    ("load_adapter", lambda self, folder: None, "bring back"),
    ("decode", lambda self, x, g: Video(frames=np.zeros((len(x), 2, 4, 4, 3)), fps=8.0), "must be uint8"),
    (
        "decode",
        lambda self, x, g: Video(frames=np.zeros((1, 2, 4, 4, 3), np.uint8), fps=8.0),
        r"must be \(B, F",
    ),
]


@pytest.mark.parametrize(("method", "wrong", "says"), WRONG)
def test_a_policy_that_breaks_the_seam_is_told_how(method, wrong, says):
    with pytest.raises(AssertionError, match=says):
        check_policy(type("Wrong", (ToyPolicy,), {method: wrong})(ToyPolicy.Config()), SCENES)


def test_a_reference_that_does_not_turn_the_adapter_off_is_told():
    from contextlib import nullcontext

    wrong = type("Wrong", (ToyPolicy,), {"reference": lambda self: nullcontext()})
    with pytest.raises(AssertionError, match="inside reference"):
        check_policy(wrong(ToyPolicy.Config()), SCENES)


def brightness(samples):
    return [float(one.frames.mean()) for one in samples]


def blackening(samples):
    for one in samples:
        one.frames[:] = 0
    return brightness(samples)


def test_a_reward_that_keeps_to_the_seam_passes():
    check_reward(brightness, SAMPLES)
    check_reward(lambda samples: [None] * len(samples), SAMPLES)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda s: [0.0], "one value a sample"),
        (lambda s: [float("nan")] * len(s), "finite or None"),
        (lambda s: list(np.random.default_rng().random(len(s))), "answers differently"),
        (lambda s: list(range(len(s))), "follow their samples"),
        (blackening, "must not write"),
    ],
)
def test_a_reward_that_breaks_the_seam_is_told_how(wrong, says):
    samples = [replace(one, frames=one.frames.copy()) for one in SAMPLES]
    with pytest.raises(AssertionError, match=says):
        check_reward(wrong, samples)


class Wrong:
    """GRPO with one method replaced."""

    def __init__(self, sampler, **methods):
        self.grpo = GRPO(GRPO.Config(), sampler)
        self.methods = methods

    def credit(self, trajectory, scores):
        return self.methods.get("credit", lambda g, t, s: g.credit(t, s))(self.grpo, trajectory, scores)

    def anchor(self, policy, batch):
        return self.methods.get("anchor", lambda g, p, b: g.anchor(p, b))(self.grpo, policy, batch)

    def loss(self, policy, batch):
        return self.methods.get("loss", lambda g, p, b: g.loss(p, b))(self.grpo, policy, batch)


def detached(grpo, policy, batch):
    loss, stats = grpo.loss(policy, batch)
    return loss.detach().requires_grad_(), stats


def keeps_nan(grpo, trajectory, scores):
    batch, stats = grpo.credit(trajectory, scores)
    return replace(batch, advantage=batch.advantage + scores.raw["reward"].sum()), stats


@pytest.mark.parametrize(
    ("methods", "says"),
    [
        ({"loss": detached}, "reaches the policy"),
        ({"credit": keeps_nan}, "not spread NaN"),
        ({"anchor": lambda g, p, b: g.anchor(p, b).mean(2)}, "the latents' shape"),
        ({"anchor": lambda g, p, b: g.anchor(p, b).bfloat16()}, "anchor must be fp32"),
    ],
)
def test_an_algorithm_that_breaks_the_seam_is_told_how(methods, says):
    check_algorithm(lambda sampler: Wrong(sampler))
    with pytest.raises(AssertionError, match=says):
        check_algorithm(lambda sampler: Wrong(sampler, **methods))
