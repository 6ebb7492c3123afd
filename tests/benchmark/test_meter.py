import subprocess
import sys

import torch

from rlnsp.benchmark import meter
from rlnsp.benchmark.meter import Meter
from rlnsp.types import NO_FRAMES, Sample, Scene

MANY = 256 * 2**20
SAMPLE = Sample(scene=Scene(id="a", context="-"), frames=NO_FRAMES, fps=8.0)


GROWTH = f"""
import numpy as np
import torch
from rlnsp.benchmark.meter import Meter

def making(scenes, generator, own):
    np.ones({MANY}, np.uint8)
    return []

before = np.ones({2 * MANY}, np.uint8)
del before
meter = Meter(torch.device("cpu"))
small = meter.peak_bytes
meter.around(making)([], torch.Generator(), [])
print(meter.peak_bytes - small)
"""


def test_the_peak_is_that_of_the_making_and_not_of_what_was_before():
    # In a process of its own: memory that other tests freed may go back to the system at any time.
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    assert 0.99 * MANY < int(done.stdout) < 1.2 * MANY


def test_seconds_are_those_of_the_making(monkeypatch):
    now = 0.0
    monkeypatch.setattr(meter.time, "perf_counter", lambda: now)
    measured = Meter(torch.device("cpu"))

    def make(scenes, generator, own):
        nonlocal now
        now += 0.5
        return [SAMPLE] * 2

    for _ in range(2):
        measured.around(make)([], torch.Generator(), [])
        now += 7.0
    assert measured.seconds_a_clip == 0.25


def test_where_the_system_does_not_tell_there_is_no_figure(monkeypatch, tmp_path):
    monkeypatch.setattr(meter, "PROCESS", tmp_path / "absent")
    assert Meter(torch.device("cpu")).peak_bytes is None
