"""What holds of every algorithm that comes with rlnsp, by every step rule."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from rlnsp import plugins
from rlnsp.ema import EMA
from rlnsp.optimisation import Optimisation, make_optimizer
from rlnsp.precision import in_precision
from rlnsp.protocols import SamplesWithAverage
from rlnsp.randomness import Randomness
from rlnsp.rollout import rollout
from rlnsp.settings import TrainerConfig
from rlnsp.testing import ToyPolicy
from tests.algorithms.trajectories import SAMPLER, SCENES, gradient, largest, moved, scores, toy, trajectory
from tests.check.faults import BatchDependent

NAMES = [name for name, point in plugins.installed("algorithms").items() if point.value.startswith("rlnsp.")]
VALUES = (0.0, 1.0, 2.0, 5.0, 5.0, 8.0)


def made(name, sampler=SAMPLER, **settings):
    kind = plugins.find("algorithms", name)
    return kind(kind.Config(**settings), sampler)


def movement(stats):
    """How far the policy is said to be from the one that sampled."""
    return stats["log_ratio_max"] if "log_ratio_max" in stats else stats["velocity_change_max"]


class Counted(BatchDependent):
    """Computes otherwise in batches of another size, as kernels do, and keeps count."""

    def __init__(self, config):
        super().__init__(config)
        self.encoded, self.calls, self.scales = 0, 0, set()

    def encode(self, scenes):
        self.encoded += len(scenes)
        return super().encode(scenes)

    def velocity(self, x, sigma, condition, guidance_scale=1.0):
        self.calls += torch.is_grad_enabled()
        self.scales.add(guidance_scale)
        return super().velocity(x, sigma, condition, guidance_scale)


class Step:
    """12 samples in chunks of 4, trained in micro-batches of another size."""

    def __init__(
        self, name, precision: Any = "fp32", policy: Any = Counted, average=True, sampler=SAMPLER, **settings
    ):
        self.toy = policy(ToyPolicy.Config())
        moved(self.toy)
        self.policy = in_precision(self.toy, precision)
        config = TrainerConfig(**{"micro_batch_size": 5, "learning_rate": 1e-2, **settings})
        algorithm = made(name, sampler, kl_coefficient=1e-3)
        rolled = rollout(self.policy, SCENES, sampler, 3, Randomness(seed=0), chunk_size=4)
        self.batch, _ = algorithm.credit(rolled, scores(*VALUES))
        self.optimise = Optimisation(
            policy=self.policy,
            algorithm=algorithm,
            optimizer=make_optimizer(self.policy, config),
            config=config,
        )
        if average and isinstance(algorithm, SamplesWithAverage):
            old = EMA(dict(self.policy.named_trainable()), decay=0.0)
            self.optimise = replace(self.optimise, old=old)

    def __call__(self, **options):
        return self.optimise(self.batch, SCENES, **options)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("rule", ["flow_sde", "dance_sde", "cps"])
@pytest.mark.parametrize("name", NAMES)
def test_the_first_ratio_is_exactly_1_where_kernels_depend_on_the_batch(name, rule, precision):
    step = Step(name, precision, sampler=replace(SAMPLER, rule=rule))
    stats = step(prove=True)
    assert movement(stats) == 0
    if "drift_max" in stats:
        assert stats["drift_max"] > 0  # the rollout's own means were of other batches


@pytest.mark.parametrize("name", NAMES)
def test_with_one_update_a_rollout_what_sampled_costs_no_forward(name):
    step = Step(name, average=False)
    assert movement(step()) == 0
    assert step.toy.calls == -(-len(step.batch) // 5)  # with gradient; the reference has none


@pytest.mark.parametrize("name", NAMES)
def test_a_scene_is_encoded_once_an_iteration_where_its_encoder_is_frozen(name):
    step = Step(name, updates_per_rollout=2)
    step()
    assert step.toy.encoded == len(SCENES)


@pytest.mark.parametrize(("given", "trained"), [(None, 2.0), (1.0, 1.0), (4.0, 4.0)])
@pytest.mark.parametrize("name", NAMES)
def test_guidance_is_switched_apart_in_sampling_and_in_training(name, given, trained):
    """In the loss, in what it is compared with, and in the reference."""
    step = Step(name, sampler=replace(SAMPLER, guidance_scale=2.0, train_guidance_scale=given))
    assert step.toy.scales == {2.0}
    step.toy.scales.clear()
    step(prove=True)
    assert step.toy.scales == {trained}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_after_a_step_the_ratio_moves(name, precision):
    assert movement(Step(name, precision=precision, updates_per_rollout=2)()) > 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_of_one_add_up_to_the_gradient_of_all(name):
    whole, parts = (Step(name, policy=ToyPolicy, micro_batch_size=size) for size in (100, 1))
    for step in (whole, parts):
        step.optimise.accumulate(step.batch, SCENES)
    for one, other in zip(whole.toy.named_trainable(), parts.toy.named_trainable(), strict=True):
        assert one[1].grad is not None
        torch.testing.assert_close(other[1].grad, one[1].grad, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_reaches_what_sampled(name):
    step = Step(name)
    anchor = step.optimise.with_anchors(step.batch, SCENES).anchor
    assert anchor is not None
    assert not anchor.requires_grad


class OwnReference(ToyPolicy):
    """Its reference has a weight that asks for a gradient."""

    def __init__(self, config):
        super().__init__(config)
        self.weight = Parameter(torch.ones(()))

    def velocity(self, x, sigma, condition, guidance_scale=1.0):
        v = super().velocity(x, sigma, condition, guidance_scale)
        return v if self._adapter_on else v * self.weight


@pytest.mark.parametrize("name", NAMES)
def test_the_pull_to_the_reference_is_in_proportion_to_its_coefficient_and_moves_the_policy_alone(name):
    policy = OwnReference(ToyPolicy.Config())
    batch, _ = made(name, kl_coefficient=1.0).credit(trajectory(policy), scores(*VALUES))
    assert len(batch) == batch.total  # it holds every sample, whatever its advantage
    batch = replace(batch, anchor=made(name).anchor(policy, batch).detach())
    moved(policy)
    batch = replace(batch, advantage=torch.zeros_like(batch.advantage))
    losses, gradients = [], []
    for coefficient in (0.0, 0.5, 1.0):
        loss, stats = made(name, kl_coefficient=coefficient).loss(policy, batch)
        assert torch.autograd.grad(loss, [policy.weight], retain_graph=True, allow_unused=True) == (None,)
        losses.append(loss.item())
        gradients.append(torch.cat([g.flatten() for g in gradient(loss, policy)]))
        distance = stats.get("kl_reference", stats.get("reference_distance"))
        assert (distance is None) == (coefficient == 0)
        if distance is not None:
            assert losses[-1] - losses[0] == pytest.approx(coefficient * distance, rel=1e-4)
    half, whole = (one - gradients[0] for one in gradients[1:])
    assert largest([half]) > 1e-3
    torch.testing.assert_close(whole, 2 * half, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_samples_without_an_advantage_cost_nothing_where_no_term_needs_them(name):
    settings: dict[str, Any] = {"kl_coefficient": 0.0} | ({"hold_undecided": False} if name == "nft" else {})
    batch, _ = made(name, **settings).credit(trajectory(toy()), scores(*[2.0] * 6))
    assert len(batch) == 0
    assert batch.total > 0
