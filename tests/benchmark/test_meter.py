import gc
import time

import numpy as np
import torch

from rlnsp.benchmark import meter
from rlnsp.benchmark.meter import Meter
from rlnsp.types import NO_FRAMES, Sample, Scene

MANY = 256 * 2**20
SAMPLE = Sample(scene=Scene(id="a", context="-"), frames=NO_FRAMES, fps=8.0)


def allocating(take):
    """Makes no clip, but takes ``MANY`` bytes for it."""

    def make(scenes, generator, own):
        take(MANY)
        return []

    return make


def test_the_peak_is_that_of_the_making_and_not_of_what_was_before():
    before = np.ones(2 * MANY, np.uint8)
    del before
    gc.collect()  # what other tests left, which would make room unseen
    measured = Meter(torch.device("cpu"))
    small = measured.peak_bytes
    measured.around(allocating(lambda n: np.ones(n, np.uint8)))([], torch.Generator(), [])
    assert small is not None
    assert measured.peak_bytes is not None
    assert 0.99 * MANY < measured.peak_bytes - small < 1.2 * MANY


def test_seconds_are_those_of_the_making():
    measured = Meter(torch.device("cpu"))

    def make(scenes, generator, own):
        time.sleep(0.05)
        return [SAMPLE] * 2

    for _ in range(2):
        measured.around(make)([], torch.Generator(), [])
    time.sleep(0.1)
    assert 0.025 <= measured.seconds_a_clip < 0.05


def test_where_the_system_does_not_tell_there_is_no_figure(monkeypatch, tmp_path):
    monkeypatch.setattr(meter, "PROCESS", tmp_path / "absent")
    assert Meter(torch.device("cpu")).peak_bytes is None
