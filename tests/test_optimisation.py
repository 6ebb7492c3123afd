from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from rlnsp.algorithms.grpo import GRPO
from rlnsp.algorithms.nft import NFT
from rlnsp.ema import EMA
from rlnsp.optimisation import Optimisation, TrainingFailed, make_optimizer, present
from rlnsp.precision import in_precision
from rlnsp.randomness import Randomness
from rlnsp.rollout import rollout
from rlnsp.settings import ConfigError, SamplerConfig, TrainerConfig, WindowConfig
from rlnsp.testing import ToyPolicy
from rlnsp.types import Scene, Scores

SAMPLER = SamplerConfig(num_steps=4, window=WindowConfig(start=0, size=2))
SCENES = [Scene(id=f"s{i}", context=f"context {i}") for i in range(2)]
VALUES = [0.0, 1.0, 3.0, 2.0, 2.5, 8.0]


class Setup:
    """A toy policy with a rollout of 6 samples of 2 steps, credited."""

    def __init__(
        self,
        precision: Any = "fp32",
        values=VALUES,
        policy=None,
        algorithm=None,
        train_encoder=False,
        **settings,
    ):
        self.toy = policy or ToyPolicy(ToyPolicy.Config(train_encoder=train_encoder))
        for _, value in self.toy.named_trainable():
            value.data.add_(0.2 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
        self.policy = in_precision(self.toy, precision)
        self.config = TrainerConfig(
            **{"learning_rate": 1e-3, "micro_batch_size": 5, "precision": precision, **settings}
        )
        self.algorithm = GRPO(GRPO.Config(clip=0.9), SAMPLER) if algorithm is None else algorithm
        made = rollout(self.policy, SCENES, SAMPLER, 3, Randomness(seed=0), chunk_size=4)
        scores = Scores(raw={"r": torch.tensor(values)}, weights={"r": 1.0})
        self.batch, _ = self.algorithm.credit(made, scores)
        self.optimizer = make_optimizer(self.policy, self.config)
        self.optimise = Optimisation(
            policy=self.policy,
            algorithm=self.algorithm,
            optimizer=self.optimizer,
            config=self.config,
        )

    def step(self, **options):
        return self.optimise(self.batch, SCENES, **options)

    def grads(self):
        found = {name: value.grad for name, value in self.toy.named_trainable()}
        return {name: grad for name, grad in found.items() if grad is not None}

    def weights(self):
        return {name: value.detach().clone() for name, value in self.toy.named_trainable()}

    def gradients(self):
        self.step()
        return self.grads()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("micro_batch_size", [1, 5, 100])
@pytest.mark.parametrize("train_encoder", [False, True])
def test_the_first_ratio_is_exactly_one_whatever_the_geometry(precision, micro_batch_size, train_encoder):
    stats = Setup(precision, micro_batch_size=micro_batch_size, train_encoder=train_encoder).step(prove=True)
    assert stats["log_ratio_max"] == 0
    assert stats["ratio"] == 1


def test_minibatches_are_whole_groups_and_an_optimiser_step_each():
    # A step on one group's transitions and then on the other's, each a mean over its own group.
    setup, by_hand = Setup(minibatches=2), Setup()
    stats = setup.step()
    parts = [
        replace(by_hand.batch.take(by_hand.batch.scene == group), total=by_hand.batch.total // 2)
        for group in (0, 1)
    ]
    assert sum(map(len, parts)) == len(by_hand.batch)
    told = []
    for part in by_hand.optimise.with_anchors(by_hand.batch, SCENES).divide(2):
        assert len(part.scene.unique()) == 1
        told.append(by_hand.optimise(part, SCENES))
    for name, value in by_hand.weights().items():
        torch.testing.assert_close(setup.weights()[name], value)
    assert stats["log_ratio_max"] == max(one["log_ratio_max"] for one in told) > 0


def test_a_minibatch_whose_groups_have_no_difference_is_a_step_all_the_same():
    setup = Setup(values=[0.0, 1.0, 3.0, 2.0, 2.0, 2.0], minibatches=2)
    setup.step(prove=True)
    assert {int(state["step"]) for state in setup.optimizer.state.values()} == {2}


def test_the_anchor_is_that_of_the_weights_that_sampled():
    setup = Setup(algorithm=NFT(NFT.Config(), SAMPLER))
    setup.optimise = replace(setup.optimise, old=EMA(dict(setup.toy.named_trainable()), decay=0.5))
    assert setup.step(prove=True)["velocity_change_max"] == 0
    live = setup.weights()
    assert setup.step(prove=True)["velocity_change_max"] > 0  # no proof: the weights have moved
    assert any(not torch.equal(value, live[name]) for name, value in setup.toy.named_trainable())


def test_a_velocity_that_is_not_repeated_stops_the_run():
    class Drifting(ToyPolicy):
        calls = 0

        def velocity(self, x, sigma, condition, guidance_scale=1.0):
            self.calls += 1
            return super().velocity(x, sigma, condition, guidance_scale) + 1e-3 * self.calls

    setup = Setup(algorithm=NFT(NFT.Config(), SAMPLER), policy=Drifting(ToyPolicy.Config()))
    with pytest.raises(TrainingFailed, match="before any update the velocity differs by"):
        setup.step(prove=True)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("train_encoder", [False, True])
def test_after_an_optimiser_step_the_ratio_moves(precision, train_encoder):
    stats = Setup(precision, updates_per_rollout=2, train_encoder=train_encoder, learning_rate=1e-2).step()
    assert stats["log_ratio_max"] > 1e-4


def test_bf16_really_computes_in_bf16_and_hands_out_fp32():
    setup = Setup("bf16")
    part = setup.batch
    condition = part.condition.take(part.scene)
    with torch.no_grad():
        coarse = setup.policy.velocity(part.x, part.sigma, condition)
        exact = setup.toy.velocity(part.x, part.sigma, condition)
    assert coarse.dtype == torch.float32
    assert 1e-6 < float((coarse - exact).abs().max()) < 0.1


def test_the_order_of_micro_batches_changes_no_bit():
    # Which of several processes has which of them is such an order.
    straight, turned = Setup(micro_batch_size=1), Setup(micro_batch_size=1)
    turned.batch = turned.batch.take(torch.arange(len(turned.batch)).flip(0))
    for (name, value), other in zip(straight.gradients().items(), turned.gradients().values(), strict=True):
        assert torch.equal(value, other), name


def test_micro_batches_make_one_optimiser_step_together():
    setup = Setup(micro_batch_size=1)
    setup.step()
    assert {int(state["step"]) for state in setup.optimizer.state.values()} == {1}


def test_transitions_left_out_for_want_of_advantage_are_averaged_over_all_the_same():
    flat = [1.0, 1.0, 1.0, *VALUES[3:]]
    left_out = Setup(values=flat)
    assert len(left_out.batch) == 6
    kept = Setup(values=flat, algorithm=GRPO(GRPO.Config(clip=0.9, kl_coefficient=1e-12), SAMPLER))
    assert len(kept.batch) == 12
    for (name, value), other in zip(left_out.gradients().items(), kept.gradients().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-9, msg=name)


def test_equal_scores_give_gradient_zero_and_the_same_number_of_steps():
    setup = Setup(values=[1.0] * 6, updates_per_rollout=3, weight_decay=0.0)
    before = setup.weights()
    setup.step()
    assert all(float(grad.abs().max()) == 0 for grad in setup.grads().values())
    assert {int(state["step"]) for state in setup.optimizer.state.values()} == {3}
    assert all(torch.equal(before[name], value) for name, value in setup.weights().items())


def test_gradient_reaches_the_policy_and_not_the_reference():
    setup = Setup(train_encoder=True, algorithm=GRPO(GRPO.Config(clip=0.9, kl_coefficient=0.1), SAMPLER))
    part = present(setup.policy, setup.batch, SCENES)
    assert part.reference_condition is not None
    assert not part.reference_condition.embeds.requires_grad
    assert part.condition.embeds.requires_grad
    setup.step()
    assert all(float(grad.abs().max()) > 0 for grad in setup.grads().values())
    assert not setup.toy._first_encoder.requires_grad


def test_encoding_anew_covers_only_the_scenes_of_the_micro_batch():
    setup = Setup(train_encoder=True)
    part = present(setup.policy, setup.batch.take(slice(6, 8)), SCENES)
    assert len(part.condition.embeds) == 1
    torch.testing.assert_close(part.condition.embeds, setup.policy.encode(SCENES[1:]).embeds)


def test_the_gradient_is_clipped_to_its_largest_norm():
    free, clipped = Setup(max_grad_norm=1e9), Setup(max_grad_norm=1e-3)
    norm = free.step()["grad_norm"]
    assert clipped.step()["grad_norm"] == pytest.approx(norm)
    total = sum(float(grad.square().sum()) for grad in clipped.grads().values())
    assert total**0.5 == pytest.approx(1e-3, rel=1e-3)


class Dropping(ToyPolicy):
    """Forgets to turn dropout off."""

    def velocity(self, x, sigma, condition, guidance_scale=1.0):
        return nn.functional.dropout(super().velocity(x, sigma, condition, guidance_scale), 0.5)


class Deaf(ToyPolicy):
    """Computes its velocity where no gradient is recorded."""

    @torch.no_grad()
    def velocity(self, x, sigma, condition, guidance_scale=1.0):
        return super().velocity(x, sigma, condition, guidance_scale).requires_grad_()


class Unbounded(ToyPolicy):
    """Has an infinite gradient."""

    def velocity(self, x, sigma, condition, guidance_scale=1.0):
        v = super().velocity(x, sigma, condition, guidance_scale)
        return v + 0 * (v - v.detach()).abs().sqrt()


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (Dropping, "the ratio is not 1"),
        (Deaf, "no gradient reaches"),
        (Unbounded, "the gradient is not finite"),
    ],
)
def test_a_policy_that_cannot_be_trained_is_refused_at_the_first_step(policy, says):
    with pytest.raises(TrainingFailed, match=says):
        Setup(policy=policy(ToyPolicy.Config())).step(prove=True)


def test_a_step_that_changes_no_weight_is_refused():
    with pytest.raises(TrainingFailed, match="changed no weight"):
        Setup(learning_rate=1e-30, weight_decay=0.0).step(prove=True)


def test_a_policy_without_parameters_is_refused():
    class Frozen(ToyPolicy):
        def named_trainable(self):
            return iter([])

    with pytest.raises(ConfigError, match="no parameter to train"):
        make_optimizer(Frozen(ToyPolicy.Config()), TrainerConfig())


def test_the_average_follows_the_weights_and_gives_them_back():
    weight = nn.Parameter(torch.zeros(2))
    ema = EMA({"weight": weight}, decay=0.9)
    for _ in range(2):
        weight.data.fill_(1.0)
        ema.update()
    with ema.applied():
        torch.testing.assert_close(weight.data, torch.full((2,), 0.19))  # 1 - 0.9^2
    assert torch.equal(weight.data, torch.ones(2))


def test_a_batch_keeps_its_total_when_it_is_cut():
    batch = Setup().batch
    assert {part.total for part in batch.split(5)} == {batch.total}
    assert replace(batch, total=99).take(slice(0, 1)).total == 99
