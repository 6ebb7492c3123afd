"""All checks, in order: those that rest on one that failed are not tried, so that a fault is named once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch

from rlnsp.check import cost, learning, ratios, sampling, scores, weights
from rlnsp.check.practice import Practice, practise
from rlnsp.check.report import Finding, Report, right, wrong
from rlnsp.check.subject import Subject, kept
from rlnsp.distributed import weight_hash
from rlnsp.settings import ConfigError

REWARD = "reward "
"""Before a reward's name in the name of its check."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """A claim about a run, and the claims that it rests on."""

    name: str
    find: Callable[[], Finding]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Examination:
    """Of one subject."""

    subject: Subject

    @cached_property
    def practice(self) -> Practice:
        """One optimiser step of the run, on at most two micro-batches of the piece, taken back."""
        subject, trainer = self.subject, self.subject.config.trainer
        rows = subject.rows(2 * trainer.micro_batch_size)
        return practise(subject.policy, subject.algorithm(), trainer, rows, subject.scenes)

    def checks(self) -> list[Check]:
        """In the order in which they are tried."""
        subject = self.subject
        rewards = [
            Check(name=f"{REWARD}{one.name}", find=partial(scores.reward, subject, one), needs=("sampler",))
            for one in subject.rewards
        ]
        return [
            Check(name="config", find=self._config),
            Check(name="weights", find=partial(weights.trained_weights, subject)),
            Check(name="ranks", find=partial(weights.ranks, subject), needs=("weights",)),
            Check(name="velocity", find=partial(weights.velocity, subject), needs=("weights",)),
            Check(name="schedule", find=partial(sampling.schedule, subject)),
            Check(name="sampler", find=partial(sampling.euler, subject), needs=("velocity", "schedule")),
            Check(name="stock", find=partial(sampling.stock, subject), needs=("sampler",)),
            *rewards,
            Check(
                name="groups",
                find=partial(scores.groups, subject),
                needs=tuple(check.name for check in rewards),
            ),
            Check(name="clip", find=partial(ratios.clip, subject), needs=("sampler",)),
            Check(name="stored latents", find=partial(ratios.stored_latents, subject), needs=("clip",)),
            Check(
                name="gradient",
                find=lambda: learning.gradient(subject, self.practice),
                needs=("clip",),
            ),
            Check(
                name="first ratio",
                find=lambda: ratios.first_ratio(subject, self.practice),
                needs=("gradient",),
            ),
            Check(name="drift", find=partial(ratios.drift, subject), needs=("first ratio", "stored latents")),
            Check(name="step", find=lambda: learning.step(subject, self.practice), needs=("gradient",)),
            Check(
                name="ratio moves",
                find=lambda: ratios.moves(subject, self.practice),
                needs=("first ratio", "step"),
            ),
            Check(
                name="reference",
                find=partial(learning.reference, subject),
                needs=("ratio moves",),
            ),
            Check(name="cost", find=lambda: cost.cost(subject, self.practice), needs=("step",)),
        ]

    def _config(self) -> Finding:
        config, scenes = self.subject.config, len(self.subject.scenes)
        trainer, names = config.trainer, ", ".join(config.rewards)
        return right(
            f"policy {config.policy.use}, rewards {names}, algorithm {config.algorithm.use}; tried in "
            f"{trainer.precision} on {trainer.group_size} samples of {scenes} scenes",
            {"scenes": scenes, "group_size": trainer.group_size},
        )


def examine(subject: Subject, say: Callable[[str], None] = lambda name: None) -> Report:
    """Try every check and leave the policy as it was.

    Args:
        subject: what is checked.
        say: told the name of each check as it begins.

    Raises:
        ConfigError: a setting turns out wrong; training would refuse it likewise.
    """
    torch.set_flush_denormal(True)  # as training does
    start = time.perf_counter()
    before = weight_hash(subject.bare)
    findings: dict[str, Finding] = {}
    with kept(subject.bare):
        for check in Examination(subject=subject).checks():
            say(check.name)
            findings[check.name] = _find(check, findings)
    after = weight_hash(subject.bare)
    findings["restored"] = (
        right("the trained weights are as they were, to the bit")
        if after == before
        else wrong("the trained weights are not as they were", "let named_trainable list one object a weight")
    )
    return Report(findings=findings, seconds=time.perf_counter() - start)


def _find(check: Check, findings: dict[str, Finding]) -> Finding:
    missing = [name for name in check.needs if findings[name].verdict in ("fail", "skipped")]
    if missing:
        return Finding(verdict="skipped", says=f"needs {missing[0]}")
    try:
        return check.find()
    except ConfigError:
        raise
    except Exception as error:  # a policy's, reward's or algorithm's own code may raise anything
        return wrong(
            f"stopped by {type(error).__name__}: {error}",
            "repair what raises; rlnsp.testing has a conformance test for each kind of plug-in",
        )
