import math
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError

from rlnsp.maths.steps import step

STOCHASTIC = ["flow_sde", "dance_sde", "cps"]


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def as_published(rule, x, v, t, t_next, a):
    """One sample's step by the formulas as their papers print them, in Python floats."""
    dt = t_next - t
    x0, x1 = x - t * v, x + (1 - t) * v
    if rule == "flow_sde":  # arXiv:2505.05470
        s = a * math.sqrt(t / (1 - (t if t < 1 else t_next)))
        return x * (1 + s**2 / (2 * t) * dt) + v * (1 + s**2 * (1 - t) / (2 * t)) * dt, s * math.sqrt(-dt)
    if rule == "dance_sde":  # arXiv:2505.07818
        score = -(x - (1 - t) * x0) / t**2
        return x + v * dt - 0.5 * a**2 * score * dt, a * math.sqrt(-dt)
    std = t_next * math.sin(a * math.pi / 2)  # arXiv:2509.05952
    return (1 - t_next) * x0 + math.sqrt(t_next**2 - std**2) * x1, std


@pytest.mark.parametrize("rule", STOCHASTIC)
@pytest.mark.parametrize("noise_level", [0.25, 0.7, 1.0])
def test_each_rule_is_its_papers_formula_per_sample(rule, noise_level):
    t, t_next = [1.0, 0.8, 0.5, 0.1], [0.9, 0.3, 0.4, 0.0]
    x, v = torch.randn(2, 4, 3, 2, generator=torch.Generator().manual_seed(0)).double()
    mean, std = step(
        rule,
        x,
        v,
        torch.tensor(t, dtype=torch.float64),
        torch.tensor(t_next, dtype=torch.float64),
        noise_level,
    )
    assert std.shape == (4, 1, 1)
    for i in range(4):
        expected_mean, expected_std = as_published(rule, x[i], v[i], t[i], t_next[i], noise_level)
        torch.testing.assert_close(mean[i], expected_mean, rtol=1e-12, atol=1e-12)
        assert std[i].item() == pytest.approx(expected_std, rel=1e-12, abs=1e-15)


# x = 1, v = 2, sigma 0.5 -> 0.25: dt = -0.25, ODE step 1 - 0.5 = 0.5, x1 = 1 + 0.5 * 2 = 2.
@pytest.mark.parametrize(
    ("rule", "noise_level", "mean", "std"),
    [
        ("ode", 0.7, 0.5, 0.0),
        ("flow_sde", 0.4, 0.42, 0.2),  # s = 0.4 sqrt(0.5 / 0.5) = 0.4; std = 0.4 * 0.5; pull = 0.04 / 1
        ("dance_sde", 1.0, 0.0, 0.5),  # std = 1 * 0.5; pull = 0.25 / 1
        ("cps", 1 / 3, 0.5 - 2 * (0.25 - math.sqrt(3) / 8), 0.125),  # sin(pi / 6) = 1/2; 1/16 - 1/64 = 3/64
        ("cps", 1.0, 0.0, 0.25),  # all noise is fresh: the mean is (1 - 0.25) x0, and x0 = 1 - 0.5 * 2 = 0
    ],
)
def test_a_step_has_the_mean_and_std_worked_out_by_hand(rule, noise_level, mean, std):
    x, v = torch.ones(1, 1, 1).double(), torch.full((1, 1, 1), 2.0, dtype=torch.float64)
    got = step(rule, x, v, f64(0.5), f64(0.25), noise_level)
    assert [value.item() for value in got] == pytest.approx([mean, std], abs=1e-12)


def test_at_sigma_1_flow_sde_replaces_only_that_samples_denominator_by_the_next_sigma():
    x = torch.zeros(3, 1, 1).double()
    sigma, sigma_next = f64(1.0, 0.9, 1.0), f64(0.9, 0.8, 0.5)
    _, std = step("flow_sde", x, x, sigma, sigma_next, 0.7)
    # sqrt(1 / (1 - s')) sqrt(1 - s') = 1: a first step's std is the noise level.
    # The second sample's is 0.7 sqrt(0.9 / 0.1) sqrt(0.1) = 2.1 sqrt(0.1).
    assert std.flatten().tolist() == pytest.approx([0.7, 2.1 * math.sqrt(0.1), 0.7], rel=1e-12)


@pytest.mark.parametrize("rule", STOCHASTIC)
@pytest.mark.parametrize("without_noise", [{"noise_level": 0.0}, {"noise_level": 0.7, "std_cap": 0.0}])
def test_without_noise_every_rule_is_the_stock_euler_step_to_the_bit(rule, without_noise):
    x, v = torch.randn(2, 64, 5, 7, generator=torch.Generator().manual_seed(0))
    sigma = torch.linspace(1, 0, 65)
    mean, std = step(rule, x, v, sigma[:-1], sigma[1:], **without_noise)
    dt = (sigma[1:] - sigma[:-1]).view(-1, 1, 1)
    assert torch.equal(mean, x + dt * v)  # what diffusers' FlowMatchEulerDiscreteScheduler computes
    assert not std.any()
    assert torch.equal(mean, step("ode", x, v, sigma[:-1], sigma[1:], 0.7)[0])


@pytest.mark.parametrize("rule", STOCHASTIC)
def test_a_cap_on_the_std_gives_the_step_of_the_noise_level_that_has_that_std(rule):
    x, v = torch.randn(2, 1, 3, 2, generator=torch.Generator().manual_seed(0)).double()
    sigma, sigma_next = f64(0.6), f64(0.4)
    lower = step(rule, x, v, sigma, sigma_next, 0.3)
    capped = step(rule, x, v, sigma, sigma_next, 0.9, std_cap=lower[1].item())
    torch.testing.assert_close(capped[0], lower[0])
    torch.testing.assert_close(capped[1], lower[1])


def test_a_cap_touches_only_the_samples_above_it():
    x = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0)).double()
    sigma, sigma_next = f64(0.9, 0.9), f64(0.5, 0.85)
    free, capped = (step("dance_sde", x, -x, sigma, sigma_next, 1.0, cap) for cap in (None, 0.5))
    assert free[1].flatten().tolist() == pytest.approx([math.sqrt(0.4), math.sqrt(0.05)])
    assert capped[1].flatten().tolist() == pytest.approx([0.5, math.sqrt(0.05)])
    assert torch.equal(free[0][1], capped[0][1])
    assert not torch.equal(free[0][0], capped[0][0])


def test_cps_adds_no_noise_on_the_last_step_and_ends_on_the_data_estimate():
    x, v = torch.randn(2, 1, 3, 2, generator=torch.Generator().manual_seed(0)).double()
    mean, std = step("cps", x, v, f64(0.3), torch.zeros(1).double(), 0.7)
    assert std.item() == 0
    torch.testing.assert_close(mean, x - 0.3 * v)


@pytest.mark.parametrize("rule", ["ode", *STOCHASTIC])
def test_the_mean_is_fp32_from_bf16_and_is_computed_in_fp32(rule):
    x, v = torch.randn(2, 2, 3, 2, generator=torch.Generator().manual_seed(0)).bfloat16()
    sigma, sigma_next = torch.tensor([0.95, 0.6]), torch.tensor([0.94, 0.5])
    mean, std = step(rule, x, v, sigma, sigma_next, 0.7)
    assert (mean.dtype, std.dtype) == (torch.float32, torch.float32)
    exact, _ = step(rule, x.double(), v.double(), sigma, sigma_next, 0.7)
    torch.testing.assert_close(mean.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", STOCHASTIC)
def test_the_gradient_of_the_mean_reaches_the_velocity_and_agrees_with_finite_differences(rule):
    x, v = torch.randn(2, 2, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    sigma, sigma_next = f64(1.0, 0.6), f64(0.9, 0.5)
    assert torch.autograd.gradcheck(
        lambda v: step(rule, x, v, sigma, sigma_next, 0.7)[0], v.requires_grad_(), raise_exception=True
    )


@pytest.mark.parametrize(
    ("rule", "noise_level", "allowed"), [("cps", 1.01, "0 to 1"), ("dance_sde", -0.1, "0 to inf")]
)
def test_a_noise_level_that_the_rule_does_not_allow_is_refused(rule, noise_level, allowed):
    x = torch.zeros(1, 1, 1)
    with pytest.raises(
        ValueError, match=f"noise_level is {noise_level} for the rule '{rule}'; allowed is {allowed}$"
    ):
        step(rule, x, x, torch.tensor([0.5]), torch.tensor([0.25]), noise_level)


def test_an_unknown_rule_is_refused():
    x = torch.zeros(1, 1, 1)
    unknown: Any = "euler"
    # Where shapes are checked, as in these tests, the checker may refuse first, in its own words.
    with pytest.raises((ValueError, TypeCheckError), match="euler"):
        step(unknown, x, x, f64(0.5), f64(0.25), 0.7)
