"""What each of several jobs runs on: a set of cores, or a GPU."""

from __future__ import annotations

import os

import torch

from rlnsp.settings import require
from rlnsp.sweep import leash

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def environments(jobs: int) -> list[dict[str, str]]:
    """The environment of each job: a GPU each where there are GPUs, else as many cores each.

    Raises:
        ConfigError: there are fewer GPUs, or cores, than jobs.
    """
    require(jobs >= 1, f"--jobs must be at least 1; got {jobs}")
    if jobs == 1:
        return [{}]
    if gpus := _gpus():
        require(jobs <= len(gpus), f"--jobs {jobs}: there are {len(gpus)} GPUs, and a job takes one")
        return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus[:jobs]]
    cores = _cores()
    require(jobs <= len(cores), f"--jobs {jobs}: there are {len(cores)} cores, and a job takes one at least")
    each = len(cores) // jobs
    return [_on(cores[job * each : (job + 1) * each]) for job in range(jobs)]


def _on(cores: list[int]) -> dict[str, str]:
    pinned = {leash.CORES: ",".join(map(str, cores))} if hasattr(os, "sched_setaffinity") else {}
    return {**dict.fromkeys(THREADS, str(len(cores))), **pinned}


def _gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them."""
    if not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]


def _cores() -> list[int]:
    """Those that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
