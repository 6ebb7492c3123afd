"""The model calls of an iteration: written down while it runs, and made again with nothing around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from benchmarks.shapes import Setting
from rlnsp import plugins
from rlnsp.config import plugin_settings
from rlnsp.protocols import Policy
from rlnsp.randomness import Randomness
from rlnsp.rollout import rollout
from rlnsp.rundir import RunFolder
from rlnsp.scoring import build_rewards
from rlnsp.settings import RunConfig
from rlnsp.trainer import Run
from rlnsp.types import Condition, Scene, Video


@dataclass(kw_only=True)
class Call:
    """One call of the model."""

    kind: str
    """velocity, encode or decode."""
    size: int
    """Samples, or scenes for encode."""
    guidance: float = 1.0
    grad: bool = False
    """A graph was built,"""
    backward: bool = False
    """and a gradient went back through it."""
    reference: bool = False
    """Of the policy before RL."""


class Recorder:
    """A policy that writes down how it is called."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.calls: list[Call] = []
        self._in_reference = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def encode(self, scenes: Sequence[Scene]) -> Condition:
        """The policy's."""
        self.calls.append(Call(kind="encode", size=len(scenes)))
        return self.policy.encode(scenes)

    def velocity(self, x: Tensor, sigma: Tensor, condition: Condition, guidance_scale: float = 1.0) -> Tensor:
        """The policy's."""
        call = Call(kind="velocity", size=len(x), guidance=guidance_scale, reference=self._in_reference)
        call.grad = torch.is_grad_enabled()
        self.calls.append(call)
        v = self.policy.velocity(x, sigma, condition, guidance_scale)
        if v.requires_grad:
            v.register_hook(lambda _: setattr(call, "backward", True))
        return v

    def decode(self, x: Tensor, generator: Generator) -> Video:
        """The policy's."""
        self.calls.append(Call(kind="decode", size=len(x)))
        return self.policy.decode(x, generator)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """The policy's."""
        before, self._in_reference = self._in_reference, True
        try:
            with self.policy.reference():
                yield
        finally:
            self._in_reference = before

    def forwards(self) -> int:
        """Samples' forwards of the DiT; guidance makes each two."""
        calls = [call for call in self.calls if call.kind == "velocity"]
        return sum(call.size * (1 + (call.guidance != 1)) for call in calls)


class Iteration:
    """An iteration of ``rlnsp train``, whole: scenes, rollout, rewards, credit, optimiser, averages."""

    def __init__(self, case: Setting, recorder: Recorder) -> None:
        run: RunConfig = case.run
        found: Any = plugins.find("algorithms", run.algorithm.use)
        algorithm = found(plugin_settings("algorithms", run.algorithm, "algorithm"), run.sampler)
        quiet = replace(run, trainer=replace(run.trainer, trackers=[]))
        stand_in: Any = recorder
        # Nothing is written: an iteration itself writes nothing.
        self.run = Run(quiet, RunFolder(Path()), stand_in, algorithm, build_rewards(run.rewards))
        self.run.proved = True  # as in every iteration but the first, which proves itself
        self.recorder, self.number = recorder, 0
        self.metrics: dict[str, Any] = {}
        """Of the last one, as in ``metrics.jsonl``."""

    def __call__(self) -> None:
        """The next one."""
        self.recorder.calls.clear()
        self.metrics = self.run.iterate(self.number)
        self.number += 1


class Rollout:
    """A rollout alone."""

    def __init__(self, case: Setting, recorder: Recorder, *, share_prefix: bool, decode: bool) -> None:
        self.case, self.recorder = case, recorder
        self.share_prefix, self.decode = share_prefix, decode

    def __call__(self) -> None:
        """The same each time."""
        self.recorder.calls.clear()
        trainer = self.case.run.trainer
        stand_in: Any = self.recorder
        rollout(
            stand_in,
            self.case.scenes,
            self.case.run.sampler,
            trainer.group_size,
            Randomness(seed=0),
            chunk_size=trainer.rollout_batch_size or trainer.micro_batch_size,
            share_prefix=self.share_prefix,
            decode=self.decode,
        )


class Bare:
    """The forwards, backwards and decodings that ``recorder`` wrote down last, on inputs that lie ready.

    Encoding is not among them: it counts against the iteration.
    """

    def __init__(self, case: Setting, recorder: Recorder) -> None:
        self.policy, self.recorder = case.policy, recorder
        largest = max(call.size for call in recorder.calls if call.kind != "encode")
        with torch.no_grad():
            condition = case.policy.encode(case.scenes)
            self.x = case.policy.noise(largest, Generator().manual_seed(0)).to(condition.embeds.device)
            self.sigma = torch.full((largest,), 0.5, device=self.x.device)
            rows = torch.arange(largest) % len(case.scenes)
            self.condition = condition.take(rows.to(self.x.device))
        self.parameters = [value for _, value in case.policy.named_trainable()]

    def __call__(self) -> None:
        """All calls, in their order."""
        for value in self.parameters:
            value.grad = None
        for call in self.recorder.calls:
            x, sigma = self.x[: call.size], self.sigma[: call.size]
            if call.kind == "decode":
                self.policy.decode(x, Generator())
            elif call.kind == "velocity":
                whole = self.condition
                rows = replace(whole, embeds=whole.embeds[: call.size], mask=whole.mask[: call.size])
                weights = self.policy.reference() if call.reference else nullcontext()
                with weights, torch.set_grad_enabled(call.grad):
                    v = self.policy.velocity(x, sigma, rows, call.guidance)
                if call.backward:
                    v.square().mean().backward()
