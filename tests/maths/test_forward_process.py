import math

import pytest
import torch

from rlnsp.maths.forward_process import matching_log_ratio, nft_loss, optimality
from rlnsp.maths.schedule import noised


def drawn(batch=5, tokens=3, channels=2, dtype=torch.float64):
    """x0, noise, sigma, x, v, v_old."""
    generator = torch.Generator().manual_seed(0)
    x0, noise, v, v_old = torch.randn(4, batch, tokens, channels, generator=generator, dtype=dtype)
    sigma = torch.tensor([1.0, 0.9, 0.5, 0.2, 0.05], dtype=dtype)[:batch]
    return x0, noise, sigma, noised(x0, noise, sigma), v, v_old


@pytest.mark.parametrize(
    ("advantage", "most", "r"),
    [(0.0, 5.0, 0.5), (5.0, 5.0, 1.0), (9.0, 5.0, 1.0), (-9.0, 5.0, 0.0), (1.0, 4.0, 0.625)],
)
def test_a_sample_is_as_good_as_its_advantage(advantage, most, r):
    assert optimality(torch.tensor([advantage]), most).item() == r


@pytest.mark.parametrize("beta", [0.1, 1.0, 1.5])
def test_the_nft_loss_is_that_of_a_slow_loop(beta):
    x0, _, sigma, x, v, v_old = drawn()
    r = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    expected = []
    for i in range(5):
        losses = []
        for sign in (1, -1):
            squares, sizes = [], []
            for n in range(3):
                for c in range(2):
                    old = v_old[i, n, c].item()
                    implicit = old + sign * beta * (v[i, n, c].item() - old)
                    error = x[i, n, c].item() - sigma[i].item() * implicit - x0[i, n, c].item()
                    squares.append(error**2)
                    sizes.append(abs(error))
            losses.append(sum(squares) / sum(sizes))
        expected.append(r[i].item() * losses[0] + (1 - r[i].item()) * losses[1])
    torch.testing.assert_close(
        nft_loss(v, v_old, x, x0, sigma, r, beta), torch.tensor(expected, dtype=torch.float64)
    )


def test_on_policy_the_nft_gradient_is_the_matching_losss_times_how_good_the_sample_is():
    # d/dv at v = v_old: (2 r - 1) beta d|x0(v) - x0|^2 / w.
    x0, _, sigma, x, v_old, _ = drawn()
    r = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    v = v_old.clone().requires_grad_()
    (slope,) = torch.autograd.grad(nft_loss(v, v_old, x, x0, sigma, r, 0.3).sum(), v)
    error = x - sigma[:, None, None] * v_old - x0
    size = error.abs().mean((1, 2), keepdim=True)
    expected = 0.3 * (2 * r - 1)[:, None, None] * -2 * sigma[:, None, None] * error / (6 * size)
    torch.testing.assert_close(slope, expected)
    assert slope[2].abs().max() < 1e-15  # neither good nor bad


def test_a_velocity_without_error_does_not_divide_by_zero():
    x0, noise, sigma, x, _, _ = drawn()
    true = noise - x0
    v = true.clone().requires_grad_()
    loss = nft_loss(v, true, x, x0, sigma, torch.ones(5), 1.0)
    assert loss.max() < 1e-6
    (slope,) = torch.autograd.grad(loss.sum(), v)
    assert slope.isfinite().all()


def test_an_error_of_exactly_nothing_is_a_loss_of_nothing():
    nothing = torch.zeros(1, 3, 2)
    assert nft_loss(nothing, nothing, nothing, nothing, torch.ones(1), torch.ones(1), 1.0).item() == 0


def test_no_gradient_flows_through_the_normalisation_of_the_nft_loss():
    # Of one latent dimension |e|^2 / |e| would have a slope of 1; with w detached it is 2.
    x0 = torch.zeros(1, 1, 1)
    v = torch.full((1, 1, 1), -3.0, requires_grad=True)
    sigma = torch.ones(1)
    loss = nft_loss(v, v.detach(), torch.zeros(1, 1, 1), x0, sigma, torch.ones(1), 1.0)
    (slope,) = torch.autograd.grad(loss.sum(), v)
    assert loss.item() == 3
    assert slope.item() == -2


def test_the_matching_log_ratio_is_that_of_a_slow_loop():
    _, _, _, _, v, v_old = drawn()
    target = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = []
    for i in range(5):
        total = 0.0
        for n in range(3):
            for c in range(2):
                new, old, goal = (t[i, n, c].item() for t in (v, v_old, target))
                total += (old - goal) ** 2 - (new - goal) ** 2
        expected.append(total / 6)
    torch.testing.assert_close(
        matching_log_ratio(v, v_old, target), torch.tensor(expected, dtype=torch.float64)
    )


def test_the_matching_log_ratio_is_exactly_zero_where_nothing_moved_and_keeps_digits_where_little_did():
    _, _, _, _, v, _ = drawn(dtype=torch.float32)
    target = torch.full_like(v, 100.0)
    assert not matching_log_ratio(v, v.clone(), target).any()
    exact = matching_log_ratio((v + 2**-18).double(), v.double(), target.double())
    assert (
        matching_log_ratio(v + 2**-18, v, target).double().sub(exact).abs().max() < 1e-3 * exact.abs().min()
    )


def test_the_matching_log_ratio_has_the_matching_losss_gradient():
    _, _, _, _, v_old, _ = drawn()
    target = torch.zeros_like(v_old)
    v = v_old.clone().requires_grad_()
    (slope,) = torch.autograd.grad(matching_log_ratio(v, v_old, target).sum(), v)
    torch.testing.assert_close(slope, -2 * v_old / 6)


def test_bf16_velocities_are_computed_with_in_fp32():
    x0, _, sigma, x, v, v_old = (t.bfloat16() for t in drawn())
    assert matching_log_ratio(v, v_old, x).dtype == torch.float32
    loss = nft_loss(v, v_old, x, x0, sigma, torch.full((5,), 0.3), 0.7)
    assert loss.dtype == torch.float32
    wide = nft_loss(
        v.double(),
        v_old.double(),
        x.double(),
        x0.double(),
        sigma.double(),
        torch.full((5,), 0.3).double(),
        0.7,
    )
    torch.testing.assert_close(loss.double(), wide, rtol=1e-5, atol=1e-5)
    wide = matching_log_ratio(v.double(), v_old.double(), x.double())
    torch.testing.assert_close(matching_log_ratio(v, v_old, x).double(), wide, rtol=1e-5, atol=1e-5)
    assert math.isfinite(optimality(torch.ones(1).bfloat16(), 3.0).item())
    assert optimality(torch.ones(1).bfloat16(), 3.0).item() == pytest.approx(2 / 3, rel=1e-6)
