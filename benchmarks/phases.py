"""Time and memory of an iteration's phases: encode, rollout, decode, score, train.

What encodes or decodes inside a rollout is a phase of its own; ``rollout`` is the rest of it.  Rewards work
while the next clips are sampled: ``score`` is how long is waited for them at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from rlnsp.protocols import Policy
from rlnsp.types import Condition, Scene, Video

PHASES: tuple[str, ...] = ("encode", "rollout", "decode", "score", "train")
AFTER = {"rollout": "score", "score": "train", "optimise": None}
"""What begins as a lap of the trainer's clock ends."""
MARK = "phase of an iteration: "


class Phases:
    """Seconds and, on CUDA, the most bytes allocated, of each phase since it was made.

    A device's work is waited for where a phase ends, so that it counts where it was asked for.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.peak_bytes = dict.fromkeys(PHASES, 0)
        """Weights included.  On a CPU see ``peaks_on_cpu``."""
        self._now: str | None = None
        self._since = 0.0
        self._mark: Any = None

    def switch(self, phase: str | None) -> str | None:
        """End the phase that is, and begin this one; what it was.  None: no phase."""
        before, cuda = self._now, self.device.type == "cuda"
        if cuda:
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if before is not None:
            self.seconds[before] += now - self._since
            self._mark.__exit__(None, None, None)
            if cuda:
                most = torch.cuda.max_memory_allocated(self.device)
                self.peak_bytes[before] = max(self.peak_bytes[before], most)
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        if phase is not None:
            self._mark = record_function(f"{MARK}{phase}")
            self._mark.__enter__()
        self._now, self._since = phase, time.perf_counter()
        return before

    @contextmanager
    def inside(self, phase: str) -> Iterator[None]:
        """What is done while it is open is this phase, within whichever it is in."""
        around = self.switch(phase)
        try:
            yield
        finally:
            self.switch(around)

    def ended(self, lap: str) -> None:
        """The trainer's clock ended a lap; see ``rlnsp.iteration_metrics.Clock``."""
        self.switch(AFTER[lap])


class InPhases:
    """A policy whose encoding and decoding are phases."""

    def __init__(self, policy: Policy, phases: Phases) -> None:
        self.policy, self.phases = policy, phases

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def encode(self, scenes: Sequence[Scene]) -> Condition:
        """The policy's."""
        with self.phases.inside("encode"):
            return self.policy.encode(scenes)

    def decode(self, x: Tensor, generator: Generator) -> Video:
        """The policy's."""
        with self.phases.inside("decode"):
            return self.policy.decode(x, generator)


def peaks_on_cpu(work: Callable[[], object]) -> dict[str, int]:
    """The most bytes of torch's tensors in each phase of ``work``, beyond those that were there before.

    By the profiler, which slows the work down: never while time is taken.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    found: Any = recorded.profiler
    spans: list[tuple[int, int, str]] = []
    changes: list[tuple[int, int]] = []
    for event in found.kineto_results.events():
        name = event.name()
        if name == "[memory]":
            changes.append((event.start_ns(), event.nbytes()))
        elif name.startswith(MARK):
            start = event.start_ns()
            spans.append((start, start + event.duration_ns(), name.removeprefix(MARK)))
    spans.sort()
    changes.sort()
    peaks, taken, place = dict.fromkeys(PHASES, 0), 0, 0
    for start, end, phase in spans:
        while place < len(changes) and changes[place][0] < start:
            taken += changes[place][1]
            place += 1
        peaks[phase] = max(peaks[phase], taken)
        while place < len(changes) and changes[place][0] <= end:
            taken += changes[place][1]
            peaks[phase] = max(peaks[phase], taken)
            place += 1
    return peaks


def held_bytes(device: torch.device, optimizer: torch.optim.Optimizer, policy: Any) -> int:
    """What is there between two iterations: weights, gradients, optimiser.

    On CUDA whatever is allocated; on a CPU those, of a policy that keeps its networks in ``model``.
    """
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    parameters = list(policy.model.parameters())
    tensors = [*parameters, *policy.model.buffers(), *(p.grad for p in parameters if p.grad is not None)]
    for state in optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, Tensor)]
    return sum(value.numel() * value.element_size() for value in tensors)
