import pytest
import torch
from torch.distributions import Normal, kl_divergence

from rlnsp.maths.density import clip_from_nats, kl_to_reference, mean_log_ratio, normalised_log_ratio


def latents(count, *shape, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)).double()


def test_the_log_ratio_of_one_number_is_the_one_worked_out_by_hand():
    x_next, mean, old_mean, std = (torch.full((1, 1, 1), value) for value in (1.0, 0.5, 0.0, 2.0))
    # -(1 - 0.5)^2 / 8 + (1 - 0)^2 / 8 = 0.75 / 8
    assert mean_log_ratio(x_next, mean, old_mean, std).item() == 0.09375


def test_the_log_ratio_is_torchs_difference_of_log_densities_averaged_over_tokens_and_channels():
    x_next, mean, old_mean = latents(3, 4, 5, 2)
    std = torch.tensor([0.1, 0.5, 1.0, 3.0], dtype=torch.float64).view(4, 1, 1)
    expected = (Normal(mean, std).log_prob(x_next) - Normal(old_mean, std).log_prob(x_next)).mean((1, 2))
    torch.testing.assert_close(mean_log_ratio(x_next, mean, old_mean, std), expected, rtol=1e-9, atol=1e-9)


def test_where_nothing_changed_the_log_ratio_is_exactly_0():
    x_next, mean = 1e4 * latents(2, 3, 50, 7).float()
    assert mean_log_ratio(x_next, mean, mean.clone(), torch.full((3, 1, 1), 1e-3)).tolist() == [0, 0, 0]


def test_a_small_change_keeps_its_digits_in_fp32():
    x_next, old_mean = latents(2, 1, 300, 16)
    std, mean = (
        torch.full((1, 1, 1), 0.1, dtype=torch.float64),
        old_mean + 2**-13 * latents(1, 1, 300, 16, seed=1)[0],
    )
    mean, old_mean, x_next = (value.float() for value in (mean, old_mean, x_next))
    exact = Normal(mean.double(), std).log_prob(x_next.double()) - Normal(old_mean.double(), std).log_prob(
        x_next.double()
    )
    got = mean_log_ratio(x_next, mean, old_mean, std.float())
    assert got.item() == pytest.approx(exact.mean().item(), rel=1e-4)


def test_the_gradient_on_policy_is_the_score_over_the_number_of_dimensions():
    x_next, mean = latents(2, 2, 3, 4)
    std = torch.tensor([0.5, 2.0], dtype=torch.float64).view(2, 1, 1)
    new_mean = mean.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(mean_log_ratio(x_next, new_mean, mean, std).sum(), new_mean)
    torch.testing.assert_close(gradient, (x_next - mean) / std**2 / 12)  # D = 3 * 4


def test_the_gradient_off_policy_agrees_with_finite_differences():
    x_next, mean, old_mean = latents(3, 2, 3, 2)
    std = torch.tensor([0.5, 2.0], dtype=torch.float64).view(2, 1, 1)
    function = lambda mean: mean_log_ratio(x_next, mean, old_mean, std)  # noqa: E731
    assert torch.autograd.gradcheck(function, mean.requires_grad_(), raise_exception=True)


@pytest.mark.parametrize("density", [mean_log_ratio, kl_to_reference])
def test_masked_tokens_are_left_out_of_the_density_the_count_and_the_gradient(density):
    tensors = list(latents(3, 2, 4, 3) if density is mean_log_ratio else latents(2, 2, 4, 3))
    std = torch.tensor([0.5, 2.0], dtype=torch.float64).view(2, 1, 1)
    mask = torch.tensor([[True, True, False, False], [False, True, True, True]])
    # The oracle drops the tokens from the tensors, one sample after the other.
    expected = [density(*(t[i : i + 1, mask[i]] for t in tensors), std[i : i + 1]) for i in range(2)]
    mean = tensors[-2].requires_grad_()
    got = density(*tensors, std, mask)
    torch.testing.assert_close(got, torch.cat(expected))
    (gradient,) = torch.autograd.grad(got.sum(), mean)
    assert torch.equal(gradient.abs().sum(2) > 0, mask)


def test_the_kl_is_torchs_averaged_over_tokens_and_channels():
    mean, reference = latents(2, 3, 5, 2)
    std = torch.tensor([0.1, 0.5, 3.0], dtype=torch.float64).view(3, 1, 1)
    expected = kl_divergence(Normal(mean, std), Normal(reference, std)).mean((1, 2))
    torch.testing.assert_close(kl_to_reference(mean, reference, std), expected)


def test_the_gradient_of_the_kl_pulls_the_mean_to_the_reference():
    mean, reference, std = (torch.full((1, 1, 2), 3.0), torch.ones(1, 1, 2), torch.full((1, 1, 1), 2.0))
    value = kl_to_reference(mean.requires_grad_(), reference, std)
    (gradient,) = torch.autograd.grad(value.sum(), mean)
    assert value.item() == 0.5  # 2^2 / (2 * 2^2)
    assert gradient.flatten().tolist() == [0.25, 0.25]  # (3 - 1) / 2^2 / D, D = 2


def test_the_kl_is_minus_the_expected_log_ratio():
    """E[log N(x; mean) - log N(x; old)] over x ~ N(old, std^2) is -(mean - old)^2 / (2 std^2).

    It is the bias that makes the lower end of a clip act first.
    """
    mean, old_mean = latents(2, 1, 20_000, 2)
    std = torch.full((1, 1, 1), 0.5, dtype=torch.float64)
    mean = old_mean + 0.1 * mean
    x_next = old_mean + std * latents(1, 1, 20_000, 2, seed=1)[0]
    kl = kl_to_reference(mean, old_mean, std).item()
    noise = (2 * kl / 40_000) ** 0.5  # std of the mean log ratio
    assert mean_log_ratio(x_next, mean, old_mean, std).item() == pytest.approx(-kl, abs=4 * noise)


@pytest.mark.parametrize("density", [mean_log_ratio, kl_to_reference])
def test_densities_of_bf16_are_computed_and_returned_in_fp32(density):
    tensors = [*latents(3 if density is mean_log_ratio else 2, 1, 50, 4).bfloat16()]
    tensors.append(torch.full((1, 1, 1), 0.5).bfloat16())
    got, exact = density(*tensors), density(*(tensor.double() for tensor in tensors))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-6)


def test_a_joint_change_of_clip_nats_is_a_mean_log_ratio_of_the_clip():
    x_next, mean, old_mean = latents(3, 1, 6, 4)
    std = torch.full((1, 1, 1), 0.7, dtype=torch.float64)
    joint = (Normal(mean, std).log_prob(x_next) - Normal(old_mean, std).log_prob(x_next)).sum().abs().item()
    got = mean_log_ratio(x_next, mean, old_mean, std).abs().item()
    assert got == pytest.approx(clip_from_nats(joint, latent_dims=24), rel=1e-9)


@pytest.mark.parametrize("clip_nats", [-1.0, 0.0, 24.0])
def test_a_clip_in_nats_that_could_never_act_is_refused(clip_nats):
    with pytest.raises(ValueError, match=f"clip_nats is {clip_nats} for a latent of 24 dimensions"):
        clip_from_nats(clip_nats, latent_dims=24)


def drawn(std, shift, n=4000):
    """What the old policy draws, and a new mean that is ``shift`` stds away, in random directions."""
    generator = torch.Generator().manual_seed(0)
    old = torch.zeros(n, 4, 2).double()
    x_next = old + std * torch.randn(old.shape, generator=generator, dtype=torch.float64)
    mean = old + shift * std * torch.randn(old.shape, generator=generator, dtype=torch.float64)
    return x_next, mean, old, torch.full((n, 1, 1), std).double()


@pytest.mark.parametrize("shift", [0.3, 3.0])
def test_the_normalised_ratio_has_no_bias_where_the_log_ratio_has_one(shift):
    steps = drawn(0.2, shift)
    biased, normalised = mean_log_ratio(*steps), normalised_log_ratio(*steps)
    assert biased.mean().item() == pytest.approx(-(shift**2) / 2, rel=0.1)
    assert abs(normalised.mean()) < 4 * normalised.std() / len(normalised) ** 0.5


def test_the_normalised_ratios_spread_for_one_move_of_the_mean_does_not_know_the_std():
    moved = 0.02  # as far in both
    spreads = [normalised_log_ratio(*drawn(std, moved / std)).std().item() for std in (0.01, 0.5)]
    assert spreads[0] == pytest.approx(spreads[1], rel=1e-6)


def test_the_normalised_ratio_is_the_papers():
    # GRPO-Guard: std (log r + |dmu|^2 / (2 std^2)), the square a mean over latent dimensions.
    x_next, mean, old, std = drawn(0.3, 0.5, n=5)
    mask = torch.tensor([[True, True, False, True]]).expand(5, 4)
    for where in (None, mask):
        kl = kl_to_reference(mean, old, std, where)
        expected = std.flatten() * (mean_log_ratio(x_next, mean, old, std, where) + kl)
        torch.testing.assert_close(normalised_log_ratio(x_next, mean, old, std, where), expected)


def test_the_normalised_ratio_is_exactly_zero_where_nothing_moved():
    x_next, _, old, std = drawn(0.3, 0.5, n=5)
    assert not normalised_log_ratio(x_next.float(), old.float(), old.float(), std.float()).any()
