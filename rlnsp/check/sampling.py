"""The schedule, and the sampler at noise 0 against what it must then be."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rlnsp.check.report import Finding, note, right, wrong
from rlnsp.check.subject import Subject
from rlnsp.protocols import HasStockPipeline, Policy
from rlnsp.randomness import Randomness
from rlnsp.rollout import rollout

ROUNDING = 1e-3
"""Root mean square of a difference of latents over that of the latents.  The same kernels stay far below,
bf16 included; a schedule off by one step is 0.04 away even on a network of random weights, where the flow is
nearly straight."""


def schedule(subject: Subject) -> Finding:
    """From 1 down to 0, a value more than there are steps."""
    steps = subject.config.sampler.num_steps
    sigmas = subject.bare.sigmas(steps)
    listed = ", ".join(f"{value:.3g}" for value in sigmas.flatten().tolist())
    faults = [
        text
        for broken, text in (
            (sigmas.shape != (steps + 1,), f"{tuple(sigmas.shape)} for {steps} steps, not ({steps + 1},)"),
            (sigmas.dtype != torch.float32, f"in {sigmas.dtype}, not fp32"),
            (sigmas.numel() > 0 and sigmas.flatten()[0] != 1, "does not begin at 1, noise"),
            (sigmas.numel() > 0 and sigmas.flatten()[-1] != 0, "does not end at 0, data"),
            (not bool((sigmas.flatten().diff() < 0).all()), "does not fall at every step"),
        )
        if broken
    ]
    if faults:
        return wrong(
            f"{'; '.join(faults)}: {listed}",
            "let sigmas(num_steps) give the model's own schedule, with the 1 before and the 0 after it",
        )
    return right(f"{steps} steps: {listed}")


def euler(subject: Subject) -> Finding:
    """The run's sampler at noise 0 is a plain Euler integration of the policy's own velocity."""
    sampler, policy = subject.config.sampler, subject.policy
    ours, x = _noiseless(subject, policy)
    with torch.no_grad():
        condition, sigmas = policy.encode(subject.scenes[:2]), policy.sigmas(sampler.num_steps).to(x)
        for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
            v = policy.velocity(x, sigma.expand(len(x)), condition, sampler.guidance_scale)
            x = x + (following - sigma) * v
    return _compared(
        ours,
        x,
        "Euler's",
        "velocity must follow from its arguments alone: no randomness, no count of calls, nothing kept",
    )


def stock(subject: Subject) -> Finding:
    """The same against the model's published pipeline, which knows nothing of the policy's schedule."""
    policy, sampler = subject.bare, subject.config.sampler
    if not isinstance(policy, HasStockPipeline):
        return note(
            "the policy has no stock_latents: nothing outside it says that its schedule is the model's own",
            "give it one (rlnsp.protocols.HasStockPipeline), and look at a few of its clips",
        )
    ours, x = _noiseless(subject, policy)
    with torch.no_grad():
        condition = policy.encode(subject.scenes[:2])
        theirs = policy.stock_latents(x, condition, sampler.num_steps, sampler.guidance_scale)
    return _compared(
        ours,
        theirs,
        "the stock pipeline's",
        "compare sigmas(num_steps) with the pipeline's, step by step (a shift? off by one?), then the "
        "timestep that velocity gives the network, its sign, and guidance",
    )


def _noiseless(subject: Subject, policy: Policy) -> tuple[Tensor, Tensor]:
    """Latents (B, N, C) of two scenes by the run's rule and window, without noise; and their first noise."""
    scenes, randomness = subject.scenes[:2], Randomness(seed=subject.config.seed)
    sampler = replace(subject.config.sampler, noise_level=0.0)
    made = rollout(policy, scenes, sampler, 1, randomness, chunk_size=len(scenes))
    generator = randomness.generator("noise")
    return made.latents, torch.cat([policy.noise(1, generator) for _ in scenes])


def _compared(ours: Tensor, theirs: Tensor, whose: str, remedy: str) -> Finding:
    difference = float((ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt())
    largest = float((ours - theirs).abs().max())
    figures = {"relative_difference": difference, "largest_difference": largest}
    if not difference <= ROUNDING:
        return wrong(
            f"at noise 0 latents are {difference:.2g} away from {whose}, relatively", remedy, figures
        )
    return right(f"at noise 0 latents are {whose}; the largest difference is {largest:.2g}", figures)
