"""Credited transitions -> one optimiser step an update, however the batch is cut up."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import AdamW, Optimizer

from rlnsp.distributed import Ranks, weight_hash
from rlnsp.eight_bit import adamw_8bit
from rlnsp.ema import EMA
from rlnsp.gradient_sum import GradientSum
from rlnsp.protocols import Algorithm, Policy, Stats
from rlnsp.settings import TrainerConfig, require
from rlnsp.types import Batch, Scene


class TrainingFailed(RuntimeError):
    """Training does not do what it must; the message says what was seen and what to do."""


def make_optimizer(policy: Policy, config: TrainerConfig) -> Optimizer:
    """AdamW over what the policy trains, as ``config.optimizer`` says.

    Raises:
        ConfigError: there is nothing to train; or bitsandbytes, which is asked for, is not there.
    """
    parameters = [value for _, value in policy.named_trainable()]
    require(
        bool(parameters), "policy: has no parameter to train; give it an adapter whose targets match a layer"
    )
    rates: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": config.betas,
        "weight_decay": config.weight_decay,
    }
    if config.optimizer == "adamw_8bit":
        return adamw_8bit("trainer.optimizer")(parameters, **rates)
    return AdamW(parameters, **rates, foreach=True)


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """What stays the same over a run's updates."""

    policy: Policy
    algorithm: Algorithm
    optimizer: Optimizer
    config: TrainerConfig
    old: EMA | None = None
    """The weights that sampled, where they are not the trained ones."""
    ranks: Ranks = field(default_factory=Ranks)
    """Each has the transitions of its own samples; the optimiser steps on the gradient of all."""

    def __call__(
        self,
        batch: Batch,
        scenes: Sequence[Scene],
        *,
        prove: bool = False,
        data_gradient: Callable[[], Stats] | None = None,
    ) -> Stats:
        """``updates_per_rollout`` times ``minibatches`` optimiser steps; empty ones have gradient zero.

        Args:
            batch: all transitions of the iteration, or of them this rank's.
            scenes: of the iteration, one for each row of the batch's condition.
            prove: score the batch as it was sampled first, and raise unless the first ratio is exactly 1 (or
                the first velocity that of the policy that sampled), a gradient arrives and the step changes
                a weight.
            data_gradient: adds the gradient of another loss before each optimiser step.

        Raises:
            TrainingFailed: one of those; or the gradient is not finite.
        """
        several = self.config.updates_per_rollout * self.config.minibatches > 1
        if prove or self.old or several:
            batch = self.with_anchors(batch, scenes)
        stats: Stats = {}
        for update in range(self.config.updates_per_rollout):
            merge = _Merge()
            for number, part in enumerate(batch.divide(self.config.minibatches)):
                proving = prove and not update + number
                merge.add(self._update(part, scenes, data_gradient, proving=proving), part.total)
            stats = merge.result()
        return stats

    def _update(
        self,
        batch: Batch,
        scenes: Sequence[Scene],
        data_gradient: Callable[[], Stats] | None,
        *,
        proving: bool,
    ) -> Stats:
        """One optimiser step."""
        parameters = dict(self.policy.named_trainable())
        before = {name: value.detach().clone() for name, value in parameters.items()} if proving else {}
        stats = self.accumulate(batch, scenes, data_gradient, proving=proving)
        norm = float(clip_grad_norm_(parameters.values(), self.config.max_grad_norm))
        if norm != norm or norm == float("inf"):
            raise TrainingFailed(
                f"the gradient is not finite, {_first_not_finite(parameters)}; nothing was updated"
            )
        self.optimizer.step()
        if proving and all(torch.equal(before[name], value) for name, value in parameters.items()):
            raise TrainingFailed(
                "the optimiser's step changed no weight: trainer.learning_rate "
                f"{self.config.learning_rate:g} is too small for the weights' precision; raise it, or "
                "keep trained weights in fp32"
            )
        return {**stats, "grad_norm": norm}

    def accumulate(
        self,
        batch: Batch,
        scenes: Sequence[Scene],
        data_gradient: Callable[[], Stats] | None = None,
        *,
        proving: bool = False,
    ) -> Stats:
        """Leave the gradient of all ranks' batches in the parameters; the arguments are those of a call."""
        gradient = GradientSum([value for _, value in self.policy.named_trainable()])
        with gradient.taking():
            stats = self._backward(batch, scenes)
            if proving and stats:
                if self.old is None or self.old.is_live():
                    _prove_nothing_moved(stats)
                _prove_gradient(any(self.ranks.exchange(gradient.any())))
            if data_gradient is not None:
                stats = {**stats, **data_gradient()}
        gradient.put(self.ranks)
        return stats

    def _backward(self, batch: Batch, scenes: Sequence[Scene]) -> Stats:
        """All micro-batches, of this rank; what is told is of all."""
        merge = _Merge()
        for part, count in self._parts(batch):
            loss, stats = self.algorithm.loss(self.policy, present(self.policy, part, scenes))
            (loss * (count / batch.total)).backward()
            if count:
                merge.add({"loss": float(loss.detach()), **stats}, count)
        return merge.of_all(self.ranks).result()

    def with_anchors(self, batch: Batch, scenes: Sequence[Scene]) -> Batch:
        """Replay the batch in the very pieces that it is trained in: kernels round by shape."""
        anchors = []
        with self.old.applied() if self.old else nullcontext():
            for part, count in self._parts(batch):
                # With gradient on, since some kernels are chosen by it; the graph is dropped at once.
                anchor = self.algorithm.anchor(self.policy, present(self.policy, part, scenes))
                anchors += [anchor.detach()] if count else []
        return replace(batch, anchor=torch.cat(anchors)) if anchors else batch

    def _parts(self, batch: Batch) -> Iterator[tuple[Batch, int]]:
        """Micro-batches and how many transitions count; idle ones follow where others have more of them."""
        size = self.config.micro_batch_size
        own = -(-len(batch) // size)
        most = max(self.ranks.exchange(own)) if self.ranks.sharded else own
        yield from ((part, len(part)) for part in batch.split(size))
        yield from ((batch.idle(), 0) for _ in range(most - own))


def present(policy: Policy, part: Batch, scenes: Sequence[Scene]) -> Batch:
    """The micro-batch, its conditions encoded anew and with gradient where training changes the encoder."""
    if not policy.encodes_with_trained_parts():
        return part
    rows, scene = part.scene.unique(return_inverse=True)
    own = [scenes[row] for row in rows.tolist()]
    with torch.no_grad(), policy.reference():
        reference = policy.encode(own)
    return replace(part, scene=scene, condition=policy.encode(own), reference_condition=reference)


def compare(ranks: Ranks, policy: Policy, when: str) -> None:
    """Raise TrainingFailed unless every rank has the same trained weights, to the bit."""
    if ranks.count == 1:
        return
    hashes = ranks.exchange(weight_hash(policy))
    others = [str(rank) for rank, found in enumerate(hashes) if found != hashes[0]]
    if others:
        raise TrainingFailed(
            f"{when} the trained weights of rank {', '.join(others)} are not those of rank 0: something in "
            "the policy or the algorithm changes them otherwise than by the optimiser's step, or a machine "
            "computes wrongly; see that all have the same software, weights and data"
        )


class _Merge:
    """Statistics of micro-batches as one: maxima of ``_max`` names, weighted means of the others."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)
        self.maxima: dict[str, float] = {}

    def add(self, stats: Stats, count: int) -> None:
        for name, value in stats.items():
            if name.endswith("_max"):
                self.maxima[name] = max(value, self.maxima.get(name, value))
            else:
                self.sums[name] += value * count
                self.counts[name] += count

    def of_all(self, ranks: Ranks) -> "_Merge":
        """Of the micro-batches of every rank."""
        whole = _Merge()
        for sums, counts, maxima in ranks.of_teams([self.sums, self.counts, self.maxima]):
            for name, value in sums.items():
                whole.sums[name] += value
                whole.counts[name] += int(counts[name])
            for name, value in maxima.items():
                whole.maxima[name] = max(value, whole.maxima.get(name, value))
        return whole

    def result(self) -> dict[str, float]:
        return {name: total / self.counts[name] for name, total in self.sums.items()} | self.maxima


def _prove_nothing_moved(stats: Stats) -> None:
    cure = (
        "the same weights saw the same latents twice. Something in the policy is random or keeps state: "
        "put it in eval mode, and turn off dropout, random kernels and caches that change"
    )
    if stats.get("log_ratio_max"):
        raise TrainingFailed(
            f"before any update the ratio is not 1: max |log-ratio| is {stats['log_ratio_max']:.3g}, where "
            + cure
        )
    if stats.get("velocity_change_max"):
        raise TrainingFailed(
            f"before any update the velocity differs by {stats['velocity_change_max']:.3g} from that of the "
            f"policy that sampled, where {cure}"
        )


def _prove_gradient(arrived: bool) -> None:
    if not arrived:
        raise TrainingFailed(
            "samples have advantages, yet no gradient reaches a trained weight: check that velocity is not "
            "computed under no_grad, and that what named_trainable lists is what velocity uses"
        )


def _first_not_finite(parameters: dict[str, Parameter]) -> str:
    found = [name for name, value in parameters.items() if not bool(_grad(value).isfinite().all())]
    return f"first in {found[0]}" if found else f"norm {float(get_total_norm(_grads(parameters))):g}"


def _grads(parameters: dict[str, Parameter]) -> list[Tensor]:
    return [_grad(value) for value in parameters.values()]


def _grad(parameter: Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
