"""How long clips take to make, and how much memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Generator

from rlnsp.evaluate import MakeClips
from rlnsp.types import Sample, Scene

PROCESS = Path("/proc/self")


class Meter:
    """Adds up the seconds of every call, and keeps the most memory that was taken at once since it was made.

    On CUDA that is what torch had allocated, weights included; else the resident memory of the process,
    libraries included, which only Linux tells.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds, self.clips = 0.0, 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._resets = device.type == "cuda" or _reset_resident()

    def around(self, make: MakeClips) -> MakeClips:
        """``make``, measured."""

        def measured(scenes: Sequence[Scene], generator: Generator, own: Sequence[int]) -> list[Sample]:
            self._wait()
            start = time.perf_counter()
            made = make(scenes, generator, own)
            self._wait()
            self.seconds += time.perf_counter() - start
            self.clips += len(made)
            return made

        return measured

    @property
    def seconds_a_clip(self) -> float:
        """Encoding, every step and decoding; the first call's warming up is in it."""
        return self.seconds / self.clips

    @property
    def peak_bytes(self) -> int | None:
        """None where the system does not tell."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return _peak_resident() if self._resets else None

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _reset_resident() -> bool:
    """Begin the process's peak anew; False where that is not possible."""
    try:
        (PROCESS / "clear_refs").write_text("5")  # proc(5): the peak becomes what is resident now
    except OSError:
        return False
    return True


def _peak_resident() -> int | None:
    for line in (PROCESS / "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
