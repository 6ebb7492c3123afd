"""Steps, densities and the loss together estimate the true gradient of the expected score."""

import pytest
import torch

from rlnsp.maths.density import mean_log_ratio
from rlnsp.maths.policy_gradient import clipped_surrogate, group_advantages, reinforce, standardise
from rlnsp.maths.steps import step

SAMPLES, TOKENS, CHANNELS = 20_000, 2, 1
DIMS = TOKENS * CHANNELS
SIGMAS = [(1.0, 0.9), (0.9, 0.7), (0.7, 0.4)]


def policy_step(rule, x, a, b, i):
    now, then = (torch.full((len(x),), t, dtype=torch.float64) for t in SIGMAS[i])
    return step(rule, x, a * x + b, now, then, 0.7)


def chain_mean(rule, theta, x):
    """Where the chain ends on average: its steps are affine in x, so the means simply follow each other."""
    for i in range(len(SIGMAS)):
        x = policy_step(rule, x, theta[0], theta[1], i)[0]
    return x


def clipped(log_ratio, advantage):
    return clipped_surrogate(log_ratio, advantage, clip=0.2)


ESTIMATORS = {
    "grpo": (lambda score: group_advantages(score, torch.zeros(SAMPLES).long(), "group"), clipped),
    "ddpo": (lambda score: standardise(score, score), clipped),
    "ddpo by reinforce": (lambda score: standardise(score, score), reinforce),
}


@pytest.mark.parametrize("rule", ["flow_sde", "dance_sde", "cps"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_losss_gradient_is_that_of_the_expected_score_within_its_standard_error(rule, estimator):
    """The policy is v = a x + b over three steps and the score is the sum of the last latent.

    The score is linear and every step is affine, so E[score] is the score of the chain of means, whose
    gradient in (a, b) follows by central differences.  The estimate is the on-policy gradient of the loss,
    times D because the log ratio is a mean over D dimensions, and the scores' std, which advantages are over.
    """
    generator = torch.Generator().manual_seed(0)
    theta = torch.tensor([0.4, -0.3], dtype=torch.float64)
    start = torch.ones(SAMPLES, TOKENS, CHANNELS).double()
    # Each sample has its own copy of the parameters, so that the gradients come apart.
    per_sample = theta[:, None, None, None].repeat(1, SAMPLES, 1, 1).requires_grad_()

    x, log_ratio = start, torch.zeros(SAMPLES).double()
    for i in range(len(SIGMAS)):
        mean, std = policy_step(rule, x, per_sample[0], per_sample[1], i)
        x_next = mean.detach() + std * torch.randn(mean.shape, generator=generator, dtype=torch.float64)
        log_ratio = log_ratio + mean_log_ratio(x_next, mean, mean.detach(), std)
        x = x_next
    score, (credit, loss) = x.sum((1, 2)), ESTIMATORS[estimator]
    (gradient,) = torch.autograd.grad(loss(log_ratio, credit(score)).sum(), per_sample)
    gradient = -DIMS * score.std(correction=0) * gradient.flatten(1)  # (2, B): ascent on the score

    h = 1e-5 * torch.eye(2, dtype=torch.float64)
    ends = [[chain_mean(rule, theta + sign * h[k], start[:1]).sum() for k in range(2)] for sign in (1, -1)]
    exact = (torch.tensor(ends[0]) - torch.tensor(ends[1])) / 2e-5
    error = gradient.std(1) / SAMPLES**0.5
    assert ((gradient.mean(1) - exact).abs() < 4 * error).all()
    assert (error < 0.1 * exact.abs()).all()  # else the line above would say little


def test_several_updates_on_one_rollout_raise_the_expected_score_and_stop_at_the_clip():
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(512, 1, 1).double()
    sigma, sigma_next = x.flatten() + 0.8, x.flatten() + 0.6
    theta = torch.zeros(1).double().requires_grad_()
    old_mean, std = step("cps", x, x + theta.detach(), sigma, sigma_next, 0.7)
    x_next = old_mean + std * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    advantage = group_advantages(x_next.flatten(), torch.zeros(512).long(), "group")
    mean, log_ratio = old_mean, torch.zeros(512)
    for _ in range(400):
        mean, std = step("cps", x, x + theta, sigma, sigma_next, 0.7)
        log_ratio = mean_log_ratio(x_next, mean, old_mean, std)
        loss = clipped_surrogate(log_ratio, advantage, clip=0.1)
        (gradient,) = torch.autograd.grad(loss.mean(), theta)
        theta = (theta - 0.02 * gradient).detach().requires_grad_()
    assert (mean > old_mean).all()  # a larger latent scores more
    assert 0.02 < (log_ratio.exp() - 1).abs().median().item() < 0.2  # moved about the clip, and no further
