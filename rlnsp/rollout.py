"""Policy + scenes -> trajectories and clips.  One function samples a step and scores a recorded one."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Generator, Tensor

from rlnsp.maths.steps import step
from rlnsp.protocols import Policy
from rlnsp.randomness import Randomness
from rlnsp.settings import SamplerConfig
from rlnsp.types import Condition, Sample, Scene, Trajectory, Video
from rlnsp.window import trained_steps


def transition(
    policy: Policy,
    x: Tensor,
    sigma: Tensor,
    sigma_next: Tensor,
    condition: Condition,
    sampler: SamplerConfig,
    guidance_scale: float,
) -> tuple[Tensor, Tensor]:
    """The Gaussian that the next latents of a stochastic step are drawn from.

    Args:
        policy: gives the velocity; gradients reach it.
        x: (B, N, C) latents before the step.
        sigma: (B,) noise level before the step.
        sigma_next: (B,) noise level after it.
        condition: B rows.
        sampler: the rule of the step and its noise.
        guidance_scale: for the policy's classifier-free guidance.

    Returns:
        mean (B, N, C) and std (B, 1, 1), both fp32 whatever the policy runs in.
    """
    velocity = policy.velocity(x, sigma, condition, guidance_scale)
    return step(sampler.rule, x, velocity, sigma, sigma_next, sampler.noise_level, sampler.std_cap)


def replay_guidance_scale(sampler: SamplerConfig) -> float:
    """The guidance with which recorded steps are scored."""
    return sampler.guidance_scale if sampler.train_guidance_scale is None else sampler.train_guidance_scale


def rollout(
    policy: Policy,
    scenes: Sequence[Scene],
    sampler: SamplerConfig,
    group_size: int,
    randomness: Randomness,
    *,
    chunk_size: int,
    share_prefix: bool = True,
) -> Trajectory:
    """``group_size`` samples of each scene, with what is needed to train on their stochastic steps.

    Args:
        policy: the generator.
        scenes: one group each.
        sampler: schedule, step rule and window, which says what steps are stochastic and trained.
        group_size: samples of a scene.
        randomness: gives the streams "window", "noise", "steps" and "decode".
        chunk_size: largest number of samples in one model call or decoding; changes memory, not the numbers.
        share_prefix: with the same initial noise in a group, compute what its samples have in common once a
            scene: every step up to the first noise, that step's mean included.  Exact.
    """
    groups = len(scenes)
    group = torch.arange(groups).repeat_interleave(group_size)
    trained = trained_steps(sampler, randomness)
    with torch.no_grad():
        condition = policy.encode(scenes)
        sigmas = policy.sigmas(sampler.num_steps)
        first = torch.arange(groups) if sampler.same_noise else group
        walk = _Walk(rows=first, x=_rows_of_noise(policy, len(first), randomness.generator("noise")))
        if not share_prefix:
            walk.branch(group)
        generator = randomness.generator("steps")
        for number in range(sampler.num_steps):
            if number not in trained:
                walk.x, _ = _in_chunks(
                    policy, walk, sigmas, number, condition, _noiseless(sampler), chunk_size
                )
                continue
            mean, std = _in_chunks(policy, walk, sigmas, number, condition, sampler, chunk_size)
            if len(walk.rows) < len(group):
                mean, std = mean[group], std[group]
                walk.branch(group)
            walk.keep(mean, mean + std * policy.noise(len(group), generator).to(mean))
        video = _decode(policy, walk.x, randomness.generator("decode"), chunk_size)
    return Trajectory(
        samples=[
            Sample(scene=scenes[g], frames=frames, fps=video.fps)
            for g, frames in zip(group.tolist(), video.frames, strict=True)
        ],
        group=group,
        condition=condition,
        latents=walk.x,
        x=torch.stack(walk.before, 1),
        x_next=torch.stack(walk.after, 1),
        mean=torch.stack(walk.means, 1),
        sigma=sigmas[trained].to(walk.x),
        sigma_next=sigmas[[number + 1 for number in trained]].to(walk.x),
        levels=sigmas[:-1].to(walk.x),
        randomness=randomness,
    )


def sample(
    policy: Policy,
    scenes: Sequence[Scene],
    sampler: SamplerConfig,
    generator: Generator,
    *,
    chunk_size: int,
    num_steps: int | None = None,
    guidance_scale: float | None = None,
) -> Video:
    """One clip a scene by the deterministic sampler; a scene's noise does not depend on the scenes after it.

    Args:
        policy: the generator.
        scenes: a clip each.
        sampler: its ``num_steps`` and ``guidance_scale`` hold where not given here.
        generator: of the initial noise and of what decoding draws.
        chunk_size: largest number of clips in the making at once.
        num_steps: of the schedule.
        guidance_scale: for the policy's classifier-free guidance.
    """
    sigmas = policy.sigmas(num_steps or sampler.num_steps)
    scale = sampler.guidance_scale if guidance_scale is None else guidance_scale
    sampler = replace(sampler, rule="ode", guidance_scale=scale)
    # Decoding must take nothing from the stream that the next scenes' noise comes from.
    decoding = torch.Generator().manual_seed(generator.initial_seed() + 1)
    clips: list[Video] = []
    with torch.no_grad():
        for start in range(0, len(scenes), chunk_size):
            part = scenes[start : start + chunk_size]
            condition = policy.encode(part)
            walk = _Walk(rows=torch.arange(len(part)), x=_rows_of_noise(policy, len(part), generator))
            for number in range(len(sigmas) - 1):
                walk.x, _ = _in_chunks(policy, walk, sigmas, number, condition, sampler, chunk_size)
            clips.append(_decode(policy, walk.x, decoding, chunk_size))
    return Video(frames=np.concatenate([clip.frames for clip in clips]), fps=clips[0].fps)


@dataclass
class _Walk:
    """Where denoising is."""

    rows: Tensor
    """Each latent's row of the condition."""
    x: Tensor
    before: list[Tensor] = field(default_factory=list)
    means: list[Tensor] = field(default_factory=list)
    after: list[Tensor] = field(default_factory=list)

    def branch(self, group: Tensor) -> None:
        """From a latent a scene to a latent a sample, if it is not there yet."""
        if len(self.rows) < len(group):
            self.rows, self.x = group, self.x[group]

    def keep(self, mean: Tensor, x_next: Tensor) -> None:
        self.before.append(self.x)
        self.means.append(mean)
        self.after.append(x_next)
        self.x = x_next


def _in_chunks(
    policy: Policy,
    walk: _Walk,
    sigmas: Tensor,
    number: int,
    condition: Condition,
    sampler: SamplerConfig,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    means, stds = [], []
    for rows, x in zip(walk.rows.split(chunk_size), walk.x.split(chunk_size), strict=True):
        sigma, sigma_next = (sigmas[i].to(x).expand(len(x)) for i in (number, number + 1))
        mean, std = transition(
            policy, x, sigma, sigma_next, condition.take(rows), sampler, sampler.guidance_scale
        )
        means.append(mean)
        stds.append(std)
    return torch.cat(means), torch.cat(stds)


def _noiseless(sampler: SamplerConfig) -> SamplerConfig:
    return replace(sampler, rule="ode")


def _rows_of_noise(policy: Policy, n: int, generator: Generator) -> Tensor:
    # A row at a time: how many rows follow must not change a row's draw.
    return torch.cat([policy.noise(1, generator) for _ in range(n)])


def _decode(policy: Policy, x: Tensor, generator: Generator, chunk_size: int) -> Video:
    clips = [policy.decode(part, generator) for part in x.split(chunk_size)]
    return Video(frames=np.concatenate([clip.frames for clip in clips]), fps=clips[0].fps)
