"""The memory that a piece of work needs beyond what is loaded."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(function: Callable[[], object], closed: str = "") -> int:
    """The most that torch's tensors take at once while ``function`` runs, those from before left out.

    On CUDA ``max_memory_allocated`` less what was allocated before; on a CPU the same figure from the
    profiler's record of every allocation, which a process's resident size, with what its allocator keeps, is
    not.  Never while time is taken: recording slows the work down.

    Args:
        function: the work.
        closed: an operation of which, on a CPU, only what it leaves behind counts, not what it takes and
            gives back within; '' for none.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function()
    found: Any = recorded.profiler
    changes: list[tuple[int, int]] = []
    spans: list[tuple[int, int]] = []
    for event in found.kineto_results.events():
        name = event.name()
        if name == "[memory]":
            changes.append((event.start_ns(), event.nbytes()))
        elif closed and name == closed:
            spans.append((event.start_ns(), event.start_ns() + event.duration_ns()))
    taken = most = 0
    for _, change in sorted(_summed(changes, sorted(spans))):
        taken += change
        most = max(most, taken)
    return most


def _summed(changes: list[tuple[int, int]], spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Times and sizes, with those inside a span as one change at its end; spans do not overlap."""
    left, within = [], [0] * len(spans)
    for time, change in changes:
        place = bisect_right(spans, (time, sys.maxsize)) - 1
        if place >= 0 and time <= spans[place][1]:
            within[place] += change
        else:
            left.append((time, change))
    return left + [(end, change) for (_, end), change in zip(spans, within, strict=True)]
