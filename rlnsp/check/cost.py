"""What an iteration will take: the piece's time and memory, scaled by how much more there is to do."""

from __future__ import annotations

import resource
import sys

import torch
from torch import Tensor

from rlnsp.check.practice import Practice
from rlnsp.check.report import Finding, note
from rlnsp.check.subject import Answer, Subject
from rlnsp.types import Trajectory


def cost(subject: Subject, practice: Practice) -> Finding:
    """Seconds and bytes of a whole iteration.

    Rollout and rewards are scaled by the number of samples, the optimiser's part by that of transitions, all
    of which it is taken to train on.  The model's own memory does not grow with the piece; what is kept of a
    rollout does.
    """
    trainer, (trajectory, rolling) = subject.config.trainer, subject.timed_rollout
    made = len(trajectory.samples)
    times = trainer.scenes_per_iteration * trainer.group_size / made
    transitions = round(len(subject.batch) * times)
    again = practice.seconds * trainer.updates_per_rollout
    several = trainer.updates_per_rollout * trainer.minibatches > 1
    optimising = (again + practice.anchor_seconds * several) * transitions / practice.transitions
    judging = sum(one.seconds for one in subject.answers.values() if isinstance(one, Answer)) * times
    total = rolling * times + judging + optimising
    stored = trajectory_bytes(trajectory)
    peak = peak_bytes(trajectory.latents.device) + round(stored * (times - 1))
    figures = {
        "seconds": total,
        "rollout_seconds": rolling * times,
        "reward_seconds": judging,
        "optimise_seconds": optimising,
        "run_seconds": total * trainer.num_iterations,
        "peak_bytes": peak,
        "trajectory_bytes": round(stored * times),
        "measured_samples": made,
    }
    return note(
        f"an iteration: about {total:.2g} s (rollout {rolling * times:.2g}, rewards {judging:.2g}, optimiser "
        f"{optimising:.2g}) and {peak / 1e9:.2g} GB at the peak, {stored * times / 1e9:.2g} of it latents; "
        f"{trainer.num_iterations} of them: {_span(total * trainer.num_iterations)}, evaluations apart. "
        f"Measured on {made} samples and {practice.transitions} transitions, scaled to "
        f"{trainer.scenes_per_iteration * trainer.group_size} and {transitions}",
        figures=figures,
    )


def trajectory_bytes(trajectory: Trajectory) -> int:
    """What is kept of a rollout: its latents, means and clips."""
    tensors = [value for value in vars(trajectory).values() if isinstance(value, Tensor)]
    clips = sum(sample.frames.nbytes for sample in trajectory.samples)
    return clips + sum(value.numel() * value.element_size() for value in tensors)


def peak_bytes(device: torch.device) -> int:
    """The most that has been in use: on CUDA by torch's tensors, on a CPU by the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # Linux counts in kilobytes


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
