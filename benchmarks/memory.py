"""The memory that a piece of work needs beyond what is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(function: Callable[[], None]) -> int:
    """The most that torch's tensors take at once while ``function`` runs, those from before left out.

    On CUDA ``max_memory_allocated`` less what was allocated before; on a CPU the same figure from the
    profiler's record of every allocation, which a process's resident size, with what its allocator keeps, is
    not.  Never while time is taken: recording slows the work down.
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
    changes = [event for event in found.kineto_results.events() if event.name() == "[memory]"]
    taken = most = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        taken += change.nbytes()
        most = max(most, taken)
    return most
