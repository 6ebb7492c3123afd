"""A run's memory by part and its time an iteration, from what its work costs.

The most memory is that of the hungriest phase on top of what stays: weights, optimiser, conditions.  A CUDA
context, a cache's fragments and a kernel's own workspace are not counted: ``RESERVE`` is left for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean

from rlnsp.plan.costs import Costs
from rlnsp.plan.spread import Spread
from rlnsp.randomness import Randomness
from rlnsp.rollout import replay_guidance_scale
from rlnsp.settings import RunConfig, require
from rlnsp.window import trained_steps

GIB = 2**30
RESERVE = 0.1
"""Of a device's memory, left free."""
WINDOWS = 50
"""Iterations that a window which moves is averaged over."""
FP32 = 4
STATE = {"adamw": 2 * FP32, "adamw_8bit": 2 * (1 + FP32 / 256)}
"""Bytes a trained parameter; of 8 bits, with a scale for each 256 numbers."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a device does a second; all of it is assumed."""

    tflops: float = 312.0
    """Its peak in bf16, dense: an A100's."""
    mfu: float = 0.4
    """The share of it that the denoiser reaches, sampling and training; a guess for transformers of this
    size."""
    decode_mfu: float = 0.2
    """And the VAE, whose convolutions wait for memory."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Of each device."""

    devices: int
    spread: Spread
    memory: float
    """Bytes that a device has."""
    stays: Mapping[str, float]
    """Bytes by part, throughout."""
    phases: Mapping[str, Mapping[str, float]]
    """Bytes by part, of each phase of an iteration."""
    seconds: Mapping[str, float]
    """Of an iteration, by phase; without the rewards'."""
    flops: Mapping[str, float]
    """Of an iteration, by phase, on one device."""
    samples: int
    """Of an iteration, on one device."""

    @property
    def peak(self) -> float:
        """Bytes in the hungriest phase."""
        return sum(self.stays.values()) + max(sum(phase.values()) for phase in self.phases.values())

    @property
    def worst_phase(self) -> str:
        """Its name."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def fits(self) -> bool:
        """With the reserve left free."""
        return self.peak <= self.memory * (1 - RESERVE)


def estimate(
    run: RunConfig, costs: Costs, *, devices: int, memory: float, rates: Rates, spread: Spread = "none"
) -> Plan:
    """The plan of a run whose groups are spread over ``devices`` equal ones.

    Of the policy RL spreads the denoiser's frozen weights alone.  With ``gradients`` they stay whole after
    their first forward, beside the own part: what is trained is never spread, so that nothing is saved.

    Raises:
        ConfigError: the groups cannot be spread.
    """
    outline, trainer, sampler = costs.outline, run.trainer, run.sampler
    require(
        trainer.context_parallel == 1,
        f"trainer.context_parallel is {trainer.context_parallel}, of which a plan knows nothing; plan with 1",
    )
    require(
        trainer.scenes_per_iteration % devices == 0,
        f"trainer.scenes_per_iteration {trainer.scenes_per_iteration} cannot be spread over {devices} "
        f"devices; let it be a multiple of {devices}",
    )
    groups = trainer.scenes_per_iteration // devices
    samples = groups * trainer.group_size
    windows = [trained_steps(sampler, Randomness(seed=run.seed, iteration=i)) for i in range(WINDOWS)]
    trained = max(map(len, windows))
    credit = run.algorithm.config.get("credit", {})
    chosen = min(credit.get("best_k", 0) + credit.get("worst_k", 0) or trainer.group_size, trainer.group_size)
    transitions = groups * chosen * trained
    rollout_batch = min(trainer.rollout_batch_size or trainer.micro_batch_size, samples)
    micro_batch = min(trainer.micro_batch_size, transitions)

    decode_batch = min(outline.decode_batch_size, rollout_batch)
    calls = costs.of_calls(rollout_batch, sampler.guidance_scale)
    training = costs.of_training(micro_batch, replay_guidance_scale(sampler))
    decoding = costs.of_decoding(decode_batch)
    # Operations are in proportion to the batch.
    one_call, step = calls.flops / rollout_batch, training.flops / micro_batch

    latent = outline.latent[0] * outline.latent[1] * FP32
    length, width = outline.condition
    kept = samples * trained * latent
    flops = {
        "reading": costs.of_reading(groups + 1),
        "rollout": one_call * mean(_calls(run, groups, samples, steps[0]) for steps in windows),
        "decoding": decoding.flops / decode_batch * samples,
        "training": (step + _references(run) * one_call) * transitions * trainer.updates_per_rollout,
    }
    weights: dict[str, dict[str, float]] = {}
    for name, part in outline.parts.items():
        weights.setdefault(part.phase, {})[f"weights of the {name}"] = part.bytes
    stay = weights.get("", {})
    gathered, first = {}, {}
    if spread != "none":
        held = costs.spreadable
        own = held.own(spread, devices)
        stay[f"weights of the {outline.spread}"] = own
        whole = {"gathered weights": held.gathered(spread, trained=False)}
        (stay if spread == "gradients" else gathered).update(whole)
        if spread == "weights":
            first = {"loading": {"weights that others will hold": held.bytes - own}}
    peak = rates.tflops * 1e12
    reading = weights.get("reading", {})
    if outline.reader is not None:
        reading["reading"] = costs.reading_bytes(groups + 1)
    return Plan(
        devices=devices,
        spread=spread,
        memory=memory,
        stays={
            **stay,
            "adapter": outline.trained * FP32,
            "its gradient": outline.trained * FP32,
            "optimiser": outline.trained * STATE[trainer.optimizer],
            **({"average of the adapter": outline.trained * FP32} if trainer.ema_decay else {}),
            "conditions": (groups + 1) * length * width * outline.condition_bytes,
        },
        phases={
            **first,
            **({"reading": reading} if reading else {}),
            # What the rollout keeps are lists; at the end, when they are joined, both are there.
            "rollout": {
                "steps kept": samples * latent * (1 + max(map(_joining, windows))),
                "a model call": calls.bytes,
                **gathered,
            },
            "decoding": {
                **weights.get("decoding", {}),
                "steps kept": 3 * kept,
                "decoding": decoding.bytes,
            },
            "training": {
                "steps kept": 3 * kept + samples * latent,
                "their batch": 3 * transitions * latent,
                "activations": training.bytes,
                **gathered,
            },
        },
        seconds={
            name: value / (peak * (rates.decode_mfu if name == "decoding" else rates.mfu))
            for name, value in flops.items()
        },
        flops=flops,
        samples=samples,
    )


def _joining(steps: Sequence[int]) -> int:
    """Latents a sample at the end of ``rollout``, while the last of x, x_next and mean is stacked and joined.

    As lists x and x_next, which two steps in a row share, and the means; the noise; x and x_next joined
    already; the means stacked, and joined.
    """
    shared = sum(after == before + 1 for before, after in pairwise(steps))
    return 2 * len(steps) - shared + 6 * len(steps)


def _calls(run: RunConfig, groups: int, samples: int, first: int) -> float:
    """Samples that the denoiser is called on; what a group has in common is computed once."""
    steps = run.sampler.num_steps
    if not run.sampler.same_noise:
        return samples * steps
    return groups * (first + 1) + samples * (steps - first - 1)


def _references(run: RunConfig) -> int:
    """Calls without gradient for a transition: of the policy before RL."""
    return int(run.algorithm.config.get("kl_coefficient", 0) > 0)
