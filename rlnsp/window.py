"""Which denoising steps of an iteration are stochastic, and so trained."""

import torch

from rlnsp.randomness import Randomness
from rlnsp.settings import SamplerConfig


def trained_steps(sampler: SamplerConfig, randomness: Randomness) -> list[int]:
    """The steps of ``sampler.window`` in the iteration of ``randomness``, rising.

    ``fixed`` is what DanceGRPO calls the first steps, or all; ``random`` is DanceGRPO's share of the steps
    (arXiv:2505.07818); ``branch`` is Flow-GRPO-Fast's window at a random place; ``sliding`` is MixGRPO's
    progressive window, which rolls back to its start once it has reached the end (arXiv:2507.21802).
    """
    window, end = sampler.window, sampler.window_end
    places = end - window.start - window.size + 1
    generator = randomness.generator("window")
    start = window.start
    match window.kind:
        case "fixed":
            pass
        case "random":
            drawn = torch.randperm(end - window.start, generator=generator)[: window.size]
            return sorted((window.start + drawn).tolist())
        case "branch":
            start += int(torch.randint(places, (), generator=generator))
        case "sliding":
            # The last shift may be shorter than the stride: the end is always reached.
            shifts = -(-(places - 1) // window.stride) + 1
            start += min(randomness.iteration // window.shift_every % shifts * window.stride, places - 1)
    return list(range(start, start + window.size))
