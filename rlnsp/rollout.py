"""Policy + scenes -> trajectories and clips.  One function samples a step and scores a recorded one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Generator, Tensor

from rlnsp.maths.steps import step
from rlnsp.protocols import Policy
from rlnsp.randomness import Randomness
from rlnsp.settings import SamplerConfig
from rlnsp.types import NO_FRAMES, Condition, Sample, Scene, Trajectory, Video
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
    decode: bool = True,
    finished: Callable[[Sequence[Sample]], None] | None = None,
    own: Sequence[int] | None = None,
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
        decode: make the clips, too; without, samples have no frames.
        finished: called with whole groups as soon as their last chunk is done, before the next one begins.
        own: the scenes that are sampled here, rising; None: all.  They are the very samples that they are
            among all, but for what a decoder may draw.
    """
    group = torch.arange(len(scenes)).repeat_interleave(group_size)
    sampled = torch.arange(len(scenes)) if own is None else torch.tensor(own)
    here = torch.isin(group, sampled).nonzero().flatten()
    trained = trained_steps(sampler, randomness)
    shared = trained[0] if sampler.same_noise and share_prefix else -1
    with torch.no_grad():
        condition = policy.encode(scenes)
        sigmas = policy.sigmas(sampler.num_steps)
        steps = _Steps(policy, sigmas, condition, sampler, chunk_size)
        first = _rows_of_noise(
            policy, len(scenes) if sampler.same_noise else len(group), randomness.generator("noise")
        )
        if sampler.same_noise:
            stem = _Walk(rows=sampled, x=first[sampled])
            of = torch.arange(len(sampled)).repeat_interleave(group_size)
        else:
            stem = _Walk(rows=group[here], x=first[here])
            of = torch.arange(len(here))
        for number in range(shared):
            stem.x, _ = steps(stem, number)
        branching = steps(stem, shared, noisy=True) if shared >= 0 else None
        # Of all samples at once: a sample's noise depends neither on the chunks nor on who samples it.
        generator = randomness.generator("steps")
        noise = {number: policy.noise(len(group), generator)[here] for number in trained}
        decoding = randomness.generator(f"decode/{own[0]}" if own and own[0] else "decode")
        walks: list[_Walk] = []
        samples: list[Sample] = []
        for chunk in torch.arange(len(here)).split(chunk_size):
            walk = _Walk(rows=group[here[chunk]], x=stem.x[of[chunk]])
            if branching is not None:
                mean, std = (part[of[chunk]] for part in branching)
                walk.keep(mean, mean + std * noise[shared][chunk].to(mean))
            for number in range(shared + 1, sampler.num_steps):
                mean, std = steps(walk, number, noisy=number in trained)
                if number in trained:
                    walk.keep(mean, mean + std * noise[number][chunk].to(mean))
                else:
                    walk.x = mean
            walks.append(walk)
            video = policy.decode(walk.x, decoding) if decode else None
            done = len(samples) // group_size * group_size
            samples += _samples([scenes[g] for g in walk.rows.tolist()], walk.x, video)
            whole = samples[done : len(samples) // group_size * group_size]
            if finished and whole:
                finished(whole)
    latents = torch.cat([walk.x for walk in walks])
    if own is not None:
        made = dict(zip(here.tolist(), samples, strict=True))
        unseen = [Sample(scene=scenes[g], frames=NO_FRAMES, fps=0.0) for g in group.tolist()]
        samples = [made.get(row, sample) for row, sample in enumerate(unseen)]
    return Trajectory(
        samples=samples,
        here=None if own is None else here,
        group=group,
        condition=condition,
        latents=latents,
        x=torch.cat([torch.stack(walk.before, 1) for walk in walks]),
        x_next=torch.cat([torch.stack(walk.after, 1) for walk in walks]),
        mean=torch.cat([torch.stack(walk.means, 1) for walk in walks]),
        sigma=sigmas[trained].to(latents),
        sigma_next=sigmas[[number + 1 for number in trained]].to(latents),
        levels=sigmas[:-1].to(latents),
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
    samples = sample_each(
        policy,
        scenes,
        sampler,
        generator,
        chunk_size=chunk_size,
        num_steps=num_steps,
        guidance_scale=guidance_scale,
    )
    return Video(frames=np.stack([one.frames for one in samples]), fps=samples[0].fps)


def sample_each(
    policy: Policy,
    scenes: Sequence[Scene],
    sampler: SamplerConfig,
    generator: Generator,
    *,
    chunk_size: int,
    num_steps: int | None = None,
    guidance_scale: float | None = None,
    own: Sequence[int] | None = None,
) -> list[Sample]:
    """As ``sample``, each clip with its scene and the latents that it was decoded from.

    With ``own`` only the scenes in those places are made, as they would be among all.
    """
    sigmas = policy.sigmas(num_steps or sampler.num_steps)
    scale = sampler.guidance_scale if guidance_scale is None else guidance_scale
    sampler = replace(sampler, guidance_scale=scale)
    # Decoding must take nothing from the stream that the next scenes' noise comes from.
    decoding = torch.Generator().manual_seed(generator.initial_seed() + 1)
    samples: list[Sample] = []
    with torch.no_grad():
        places = list(range(len(scenes)) if own is None else own)
        noise = _rows_of_noise(policy, len(scenes), generator) if scenes else None
        for start in range(0, len(places), chunk_size):
            at = places[start : start + chunk_size]
            part = [scenes[place] for place in at]
            steps = _Steps(policy, sigmas, policy.encode(part), sampler, chunk_size)
            assert noise is not None
            walk = _Walk(rows=torch.arange(len(part)), x=noise[at])
            for number in range(len(sigmas) - 1):
                walk.x, _ = steps(walk, number)
            samples += _samples(part, walk.x, policy.decode(walk.x, decoding))
    return samples


@dataclass
class _Walk:
    """Where denoising is."""

    rows: Tensor
    """Each latent's row of the condition."""
    x: Tensor
    before: list[Tensor] = field(default_factory=list)
    means: list[Tensor] = field(default_factory=list)
    after: list[Tensor] = field(default_factory=list)

    def keep(self, mean: Tensor, x_next: Tensor) -> None:
        self.before.append(self.x)
        self.means.append(mean)
        self.after.append(x_next)
        self.x = x_next


@dataclass(frozen=True)
class _Steps:
    """Steps of one schedule, at most ``chunk_size`` latents in a model call."""

    policy: Policy
    sigmas: Tensor
    condition: Condition
    sampler: SamplerConfig
    chunk_size: int

    def __call__(self, walk: _Walk, number: int, *, noisy: bool = False) -> tuple[Tensor, Tensor]:
        """Mean and std of a step from where ``walk`` is; by the sampler's rule, or deterministic."""
        sampler = self.sampler if noisy else replace(self.sampler, rule="ode")
        means, stds = [], []
        for rows, x in zip(walk.rows.split(self.chunk_size), walk.x.split(self.chunk_size), strict=True):
            sigma, sigma_next = (self.sigmas[i].to(x).expand(len(x)) for i in (number, number + 1))
            condition = self.condition.take(rows)
            mean, std = transition(
                self.policy, x, sigma, sigma_next, condition, sampler, sampler.guidance_scale
            )
            means.append(mean)
            stds.append(std)
        return torch.cat(means), torch.cat(stds)


def _rows_of_noise(policy: Policy, n: int, generator: Generator) -> Tensor:
    # A row at a time: how many rows follow must not change a row's draw.
    return torch.cat([policy.noise(1, generator) for _ in range(n)])


def _samples(scenes: Sequence[Scene], latents: Tensor, video: Video | None) -> list[Sample]:
    frames = [NO_FRAMES] * len(scenes) if video is None else video.frames
    fps = 0.0 if video is None else video.fps
    return [
        Sample(scene=scene, frames=clip, fps=fps, latents=x)
        for scene, clip, x in zip(scenes, frames, latents, strict=True)
    ]
