import time

import pytest
import torch

from benchmarks import phases as module
from benchmarks.phases import InPhases, Phases, held_bytes, peaks_on_cpu
from rlnsp.iteration_metrics import Clock
from rlnsp.testing import ToyPolicy
from rlnsp.world import scenes

MEGABYTE = 2**20


def take(megabytes):
    return torch.empty(megabytes * MEGABYTE, dtype=torch.uint8)


def iteration(phases):
    """Encodes 1 MB, keeps 2, decodes 8 beside them, scores nothing, trains with 4; 16 are of no phase."""
    clock = Clock(ended=phases.ended)
    phases.switch("rollout")
    with phases.inside("encode"):
        take(1)
    kept = take(2)
    with phases.inside("decode"):
        take(8)
    clock.lap("rollout")
    clock.lap("score")
    del kept
    take(4)
    clock.lap("optimise")
    take(16)


def test_each_phase_has_the_most_memory_that_was_taken_while_it_was_on():
    phases = Phases(torch.device("cpu"))
    peaks = peaks_on_cpu(lambda: [iteration(phases) for _ in range(2)])
    found = {phase: round(size / MEGABYTE) for phase, size in peaks.items()}
    assert found == {"encode": 1, "rollout": 2, "decode": 10, "score": 2, "train": 4}


def test_time_is_that_of_the_innermost_phase(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(now)))
    phases = Phases(torch.device("cpu"))
    with phases.inside("rollout"), phases.inside("encode"):
        pass
    # A reading of the clock as a phase ends and one as the next begins: what lies between is of neither.
    assert (phases.seconds["rollout"], phases.seconds["encode"], phases.seconds["train"]) == (2, 1, 0)


def test_encoding_and_decoding_of_a_policy_are_phases_of_their_own():
    phases = Phases(torch.device("cpu"))
    policy = InPhases(ToyPolicy(ToyPolicy.Config()), phases)
    phases.switch("rollout")
    policy.encode(scenes("train", 1, 0))
    time.sleep(0.02)
    policy.decode(policy.noise(1, torch.Generator()), torch.Generator())
    phases.switch(None)
    assert all(phases.seconds[name] > 0 for name in ("encode", "decode"))
    assert phases.seconds["rollout"] >= 0.02
    assert phases.seconds["train"] == 0


class FakeCuda:
    """Tells the peaks that it was given, one after the other, and forgets one as it is reset."""

    def __init__(self, *peaks):
        self.peaks = list(peaks)

    def synchronize(self, device):
        pass

    def max_memory_allocated(self, device):
        return self.peaks[0]

    def reset_peak_memory_stats(self, device):
        self.peaks.pop(0)


def test_on_cuda_a_phase_keeps_the_most_of_all_its_parts(monkeypatch):
    #                      before, rollout, encode, rollout, train
    monkeypatch.setattr(module.torch, "cuda", FakeCuda(90, 7, 3, 5, 4, 0))
    phases = Phases(torch.device("cuda"))
    phases.switch("rollout")
    with phases.inside("encode"):
        pass
    phases.switch("train")
    phases.switch(None)
    assert phases.peak_bytes == {"encode": 3, "rollout": 7, "decode": 0, "score": 0, "train": 4}


def test_what_stays_is_weights_gradients_and_the_optimisers_state():
    class Policy:
        model = torch.nn.Linear(10, 10, bias=False)

    optimizer = torch.optim.AdamW(Policy.model.parameters())
    device = torch.device("cpu")
    assert held_bytes(device, optimizer, Policy) == 400
    Policy.model(torch.ones(1, 10)).sum().backward()
    optimizer.step()
    # The gradient, AdamW's two moments, and its count of steps, one number.
    assert held_bytes(device, optimizer, Policy) == pytest.approx(4 * 400, abs=8)
