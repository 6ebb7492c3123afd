"""Data N(m, s2) has a known velocity, linear in x, so a sampler's moments follow exactly, without a draw."""

import math

import pytest
import torch

from rlnsp.maths.steps import step

DATA_MEAN, DATA_VAR = 0.5, 0.25


def marginal(t, data_var=DATA_VAR):
    """Mean and variance of (1 - t) data + t noise."""
    return (1 - t) * DATA_MEAN, (1 - t) ** 2 * data_var + t**2


def moments_after(rule, t, t_next, noise_level, mean, var, data_var=DATA_VAR, std_cap=None):
    """Moments of x_next where x is N(mean, var) and the velocity is E[noise - data | x]."""
    centre, spread = marginal(t, data_var)

    def next_mean(x):
        x = torch.full((1, 1, 1), x, dtype=torch.float64)
        v = -DATA_MEAN + (t - (1 - t) * data_var) / spread * (x - centre)
        now, then = (torch.full((1,), time, dtype=torch.float64) for time in (t, t_next))
        out, std = step(rule, x, v, now, then, noise_level, std_cap)
        return out.item(), std.item()

    at_mean, std = next_mean(mean)
    slope = next_mean(mean + 1)[0] - at_mean
    return at_mean, slope**2 * var + std**2


def sampled_moments(rule, noise_level, steps, data_var=DATA_VAR):
    mean, var = 0.0, 1.0
    for i in range(steps):
        mean, var = moments_after(rule, 1 - i / steps, 1 - (i + 1) / steps, noise_level, mean, var, data_var)
    return mean, var


@pytest.mark.parametrize(
    ("rule", "noise_level"),
    [("ode", 0.0)] + [(rule, a) for rule in ("flow_sde", "dance_sde") for a in (0.25, 0.7, 1.0)],
)
def test_with_many_steps_every_noise_level_of_the_sdes_ends_at_the_mean_and_variance_of_the_data(
    rule, noise_level
):
    mean, var = sampled_moments(rule, noise_level, steps=400)
    assert mean == pytest.approx(DATA_MEAN, rel=1e-9)
    assert var == pytest.approx(DATA_VAR, rel=0.01)


@pytest.mark.parametrize("noise_level", [0.3, 0.7, 1.0])
def test_with_many_steps_cps_ends_at_the_mean_and_at_cos_of_a_quarter_turn_of_the_spread(noise_level):
    """Near the data, a step from t to about t multiplies x - mean by 1 - (1 - c) q and adds (1 - c^2) t^2.

    Here c = cos(a pi / 2) and q = t^2 / s2, small.  So the stationary variance is
    (1 - c^2) t^2 / (2 (1 - c) q) = s2 (1 + c) / 2 = s2 cos(a pi / 4)^2:
    at a fixed noise level cps does not sample the data, however many the steps.
    """
    mean, var = sampled_moments("cps", noise_level, steps=800)
    assert mean == pytest.approx(DATA_MEAN, rel=1e-9)
    assert var == pytest.approx(DATA_VAR * math.cos(noise_level * math.pi / 4) ** 2, rel=0.02)


@pytest.mark.parametrize("noise_level", [0.3, 0.7, 1.0])
def test_where_the_data_is_one_point_cps_keeps_the_marginals_exactly_even_in_three_steps(noise_level):
    mean, var = 0.0, 1.0
    for t, t_next in [(1.0, 0.7), (0.7, 0.25), (0.25, 0.05)]:
        mean, var = moments_after("cps", t, t_next, noise_level, mean, var, data_var=0.0)
        assert (mean, var) == pytest.approx(marginal(t_next, data_var=0.0), rel=1e-9)


@pytest.mark.parametrize("t", [0.3, 0.6, 0.9])
@pytest.mark.parametrize(
    ("rule", "noise_level", "std_cap"),
    [
        ("flow_sde", lambda dt: 0.5, lambda dt: None),
        ("dance_sde", lambda dt: 0.5, lambda dt: None),
        (
            "cps",
            lambda dt: math.sqrt(dt),
            lambda dt: None,
        ),  # as much noise per unit of sigma
        ("flow_sde", lambda dt: 2.0, lambda dt: 0.4 * math.sqrt(dt)),  # the cap decides
        ("dance_sde", lambda dt: 2.0, lambda dt: 0.4 * math.sqrt(dt)),
        ("cps", lambda dt: 1.0, lambda dt: 0.4 * math.sqrt(dt)),
    ],
)
def test_one_step_keeps_the_marginal_to_first_order_capped_or_not(rule, noise_level, std_cap, t):
    """Halving dt divides the error of the variance by four; a wrong drift would divide it by two."""

    def error(dt):
        mean, var = moments_after(rule, t, t - dt, noise_level(dt), *marginal(t), std_cap=std_cap(dt))
        assert mean == pytest.approx(marginal(t - dt)[0], abs=1e-12)
        return var - marginal(t - dt)[1]

    assert error(0.002) / error(0.001) == pytest.approx(4, rel=0.1)
