import pytest
import torch

from rlnsp.maths.schedule import at_least_fp32, data_estimate, expand_to, noise_estimate, noised


def test_the_path_runs_from_data_at_0_to_noise_at_1_and_a_quarter_of_the_way_is_a_quarter_noise():
    x0, noise = torch.full((3, 2, 1), 8.0), torch.full((3, 2, 1), 4.0)
    x = noised(x0, noise, torch.tensor([0.0, 0.25, 1.0]))
    assert x[:, 0, 0].tolist() == [8.0, 7.0, 4.0]  # 0.75 * 8 + 0.25 * 4 = 7


def test_the_true_velocity_gives_back_the_data_and_the_noise_at_every_sigma():
    x0, noise = torch.randn(2, 5, 3, 2, generator=torch.Generator().manual_seed(0)).double()
    sigma = torch.tensor([0.0, 0.3, 0.5, 0.9, 1.0], dtype=torch.float64)
    x, v = noised(x0, noise, sigma), noise - x0
    torch.testing.assert_close(data_estimate(x, v, sigma), x0)
    torch.testing.assert_close(noise_estimate(x, v, sigma), noise)


def test_the_velocity_is_the_slope_of_the_path():
    x0, noise = torch.randn(2, 4, 3, 2, generator=torch.Generator().manual_seed(0)).double()
    sigma, h = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64), 1e-6
    slope = (noised(x0, noise, sigma + h) - noised(x0, noise, sigma - h)) / (2 * h)
    torch.testing.assert_close(slope, noise - x0, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 3, 4), (2, 3, 4, 5, 6)])
def test_expand_to_gives_one_value_a_sample_whatever_the_rank(shape):
    value = expand_to(torch.tensor([2.0, 3.0]), torch.ones(shape))
    assert value.ndim == len(shape)
    assert (value * torch.ones(shape))[1].unique().tolist() == [3.0]


@pytest.mark.parametrize(
    ("given", "result"),
    [
        ((torch.bfloat16, torch.bfloat16), torch.float32),
        ((torch.float32, torch.float16), torch.float32),
        ((torch.bfloat16, torch.float64), torch.float64),
    ],
)
def test_precision_is_the_widest_given_and_never_below_fp32(given, result):
    a, b = (torch.ones(1, 2, 2, dtype=dtype) for dtype in given)
    assert [tensor.dtype for tensor in at_least_fp32(a, b)] == [result, result]
    for function in (noised, data_estimate, noise_estimate):
        assert function(a, b, torch.tensor([0.5])).dtype == result
