import pytest
import torch

from rlnsp.benchmark.meter import Meter
from tests.benchmark.test_meter import MANY


@pytest.mark.gpu
def test_on_a_gpu_it_is_what_torch_allocated():
    measured = Meter(torch.device("cuda"))
    start = measured.peak_bytes

    def making(scenes, generator, own):
        torch.empty(MANY, dtype=torch.uint8, device="cuda")
        return []

    measured.around(making)([], torch.Generator(), [])
    assert start is not None
    assert measured.peak_bytes is not None
    assert measured.peak_bytes - start >= MANY
