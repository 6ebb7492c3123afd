"""Faults to plant: policies, algorithms and rewards, each wrong in one way."""

from contextlib import ExitStack, nullcontext
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from rlnsp.algorithms.grpo import GRPO
from rlnsp.replay import replay
from rlnsp.testing import ToyPolicy


class Trained(ToyPolicy):
    """No fault: a policy whose last layer is no longer zero."""

    def __init__(self, config):
        super().__init__(config)
        for value in self.network.outer.parameters():
            value.data.normal_(generator=torch.Generator().manual_seed(1))


class TooFewSigmas(ToyPolicy):
    def sigmas(self, num_steps):
        return torch.linspace(1, 0, num_steps)


class NoZeroAtTheEnd(ToyPolicy):
    def sigmas(self, num_steps):
        return torch.linspace(1, 1 / num_steps, num_steps + 1)


class BatchDependent(ToyPolicy):
    """As kernels that round by the batch's shape, only more."""

    def velocity(self, x, sigma, condition, guidance_scale=1.0):
        return super().velocity(x, sigma, condition, guidance_scale) * (1 + 1e-3 * len(x))


class Dropping(ToyPolicy):
    """Dropout, wherever it is."""

    def velocity(self, x, sigma, condition, guidance_scale=1.0):
        return nn.functional.dropout(super().velocity(x, sigma, condition, guidance_scale), 0.5)


class DroppingInTraining(ToyPolicy):
    """Dropout where a gradient is recorded, as in train mode."""

    def velocity(self, x, sigma, condition, guidance_scale=1.0):
        v = super().velocity(x, sigma, condition, guidance_scale)
        return nn.functional.dropout(v, 0.5) if torch.is_grad_enabled() else v


class NothingToTrain(ToyPolicy):
    """An adapter whose targets match no layer."""

    def named_trainable(self):
        return iter([])


class TrainedNaN(ToyPolicy):
    def __init__(self, config):
        super().__init__(config)
        self.network.inner.weight.data[0, 0] = float("nan")


class FrozenNaN(ToyPolicy):
    def __init__(self, config):
        super().__init__(config)
        self.frozen = torch.tensor(float("nan"))

    def velocity(self, x, sigma, condition, guidance_scale=1.0):
        return super().velocity(x, sigma, condition, guidance_scale) * self.frozen


class FrozenEncoderNaN(ToyPolicy):
    def __init__(self, config):
        super().__init__(config)
        self.network.encoder.weight.data[0, 0] = float("nan")


class Deaf(ToyPolicy):
    """Computes where no gradient is recorded."""

    @torch.no_grad()
    def velocity(self, x, sigma, condition, guidance_scale=1.0):
        return super().velocity(x, sigma, condition, guidance_scale).requires_grad_()


class ListsTooMuch(ToyPolicy):
    """Trains a weight that nothing uses."""

    def __init__(self, config):
        super().__init__(config)
        self.unused = nn.Parameter(torch.ones(3))

    def named_trainable(self):
        yield from super().named_trainable()
        yield "unused", self.unused


class ForgotToFreeze(ToyPolicy):
    """A frozen weight still asks for its gradient."""

    def __init__(self, config):
        super().__init__(config)
        self.gain = nn.Parameter(torch.ones(1, 1, 3))

    def velocity(self, x, sigma, condition, guidance_scale=1.0):
        return super().velocity(x, sigma, condition, guidance_scale) * self.gain


class InfiniteGradient(ToyPolicy):
    def velocity(self, x, sigma, condition, guidance_scale=1.0):
        v = super().velocity(x, sigma, condition, guidance_scale)
        return v + 0 * (v - v.detach()).abs().sqrt()


class Breaking(ToyPolicy):
    """Raises once a gradient is wanted."""

    def velocity(self, x, sigma, condition, guidance_scale=1.0):
        if torch.is_grad_enabled():
            raise RuntimeError("out of paper")
        return super().velocity(x, sigma, condition, guidance_scale)


class HoldsAutocast(ToyPolicy):
    """Opens one autocast at its first gradient, and keeps its low-precision weights for good."""

    def __init__(self, config):
        super().__init__(config)
        self.held = ExitStack()

    def velocity(self, x, sigma, condition, guidance_scale=1.0):
        if torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu"):
            self.held.enter_context(torch.autocast("cpu", torch.bfloat16))
        # Without gradient its own cache would be one without gradient.
        fresh = nullcontext() if torch.is_grad_enabled() else torch.autocast("cpu", enabled=False)
        with fresh:
            return super().velocity(x, sigma, condition, guidance_scale)


class StoresInBf16(GRPO):
    """Keeps recorded latents small."""

    def credit(self, trajectory, scores):
        batch, stats = super().credit(trajectory, scores)
        return replace(batch, x=batch.x.bfloat16(), x_next=batch.x_next.bfloat16()), stats


class RoundsToBf16(GRPO):
    """The same, and back to fp32, as a cache on disk would."""

    def credit(self, trajectory, scores):
        batch, stats = super().credit(trajectory, scores)
        return replace(batch, x_next=batch.x_next.bfloat16().float()), stats


class InertDivergence(GRPO):
    """Measures the divergence from the reference where no gradient is recorded."""

    def loss(self, policy, batch):
        plain, stats = GRPO(replace(self.config, kl_coefficient=0.0), self.sampler).loss(policy, batch)
        with torch.no_grad():
            ours = replay(policy, batch, self.sampler)
            with policy.reference():
                theirs = replay(policy, batch, self.sampler)
            divergence = ((ours.mean - theirs.mean) ** 2 / (2 * ours.std**2)).mean()
        return plain + self.config.kl_coefficient * divergence, stats


class DivergenceWithoutCoefficient(GRPO):
    """Pulls as hard, whatever it is told."""

    def loss(self, policy, batch):
        always = 0.3 if self.config.kl_coefficient else 0.0
        return GRPO(replace(self.config, kl_coefficient=always), self.sampler).loss(policy, batch)


def brightness(completions):
    return [float(clip.mean()) for clip in completions]


def constant(completions):
    return [0.5 for _ in completions]


def of_the_words(prompts, completions):
    return [float(len(prompt)) for prompt in prompts]


def the_first_wins(completions):
    return [float(clip.mean()) + (number == 0) for number, clip in enumerate(completions)]


def running_mean(completions):
    means = [float(clip.mean()) for clip in completions]
    return [float(np.mean(means[: number + 1])) for number in range(len(means))]


def compared_in_its_group(completions, id):  # noqa: A002
    """By whole groups, as a reward may."""
    means = [float(clip.mean()) for clip in completions]
    best = {scene: max(m for m, other in zip(means, id, strict=True) if other == scene) for scene in set(id)}
    return [mean - best[scene] for mean, scene in zip(means, id, strict=True)]


def drawn(completions):
    return [float(clip.mean() + np.random.default_rng().normal()) for clip in completions]


def unscored(completions):
    return [None for _ in completions]


def one_short(completions):
    return brightness(completions)[1:]


def failing(completions):
    raise OSError("the judge's server is away")


def black_or_not(completions):
    """Tells a black clip from others, and generated ones not from each other."""
    return [float(clip.max() > 0) for clip in completions]
