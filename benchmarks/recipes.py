"""What the time to a reward is measured of: the plain recipe, our preset, and the tricks between them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from rlnsp import config
from rlnsp.settings import RunConfig

REWARD = "nsp_reward"

SCALED: Mapping[str, object] = {
    "trainer.scenes_per_iteration": 8,
    "trainer.group_size": 12,
    "trainer.micro_batch_size": 9,
    "evaluation.num_steps": None,
}
"""What of ``flow_grpo`` is not its authors' here.

8 x 12 samples an iteration in place of 48 x 24, as many as ``world`` has, so that a budget of minutes holds
several iterations.  9 latents a model call, which is their batch.  Evaluated with the 10 steps that it
samples with, not 40.
"""

MEASURED: Mapping[str, object] = {
    "evaluation.num_scenes": 256,
    "evaluation.num_seeds": 1,
    "evaluation.keep_clips": 0,
    "trainer.report": False,
    "trainer.trackers": [],
}
"""The same for all: how it is evaluated, and nothing that takes time beside."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A way to train: a config and what is changed in it."""

    name: str
    """As the command takes it."""
    what: str
    """In the table."""
    config: str = "flow_grpo"
    changes: Mapping[str, object] = field(default_factory=lambda: SCALED)
    iterations: int
    """Its budget."""
    every: int
    """Iterations between evaluations."""

    @property
    def overrides(self) -> list[str]:
        """For ``rlnsp train``; a checkpoint at each evaluation, so that a stopped run can be gone on with."""
        own = {
            **MEASURED,
            **self.changes,
            "trainer.num_iterations": self.iterations,
            "trainer.save_every": self.every,
            "evaluation.every": self.every,
        }
        return [f"{name}={json.dumps(value).strip(chr(34))}" for name, value in own.items()]

    @property
    def folder(self) -> str:
        """Of its runs; another one where anything of the arm is changed."""
        told = json.dumps([self.config, *self.overrides])
        return f"{self.name}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"

    def load(self) -> RunConfig:
        """Its run."""
        return config.load(self.config, self.overrides, [REWARD])


PLAIN = Arm(
    name="plain",
    what="plain Flow-GRPO: 9 of 10 steps trained, guidance 4.5, a noise a sample, 9 samples a call",
    iterations=8,
    every=4,
)
PRESET = Arm(
    name="world",
    what="the preset `world`: `nft` on deterministic rollouts, no guidance, 96 samples a call",
    config="world",
    changes={},
    iterations=10,
    every=2,
)


def trick(name: str, what: str, **changes: object) -> Arm:
    """The plain recipe with one thing changed; "__" in a keyword stands for a dot."""
    own = {key.replace("__", "."): value for key, value in changes.items()}
    return Arm(
        name=name,
        what=what,
        changes={**SCALED, **own},
        iterations=PLAIN.iterations,
        every=PLAIN.every,
    )


# An own noise a sample stays, but where the trick is that there is one a scene.
TRICKS = [
    trick(
        "few-steps",
        "3 steps trained, in a row from one of the first three",
        sampler__window__kind="branch",
        sampler__window__size=3,
        sampler__window__end=5,
    ),
    trick("shared", "a noise a scene, its prefix shared; all steps trained", sampler__same_noise=True),
    trick(
        "few-steps-shared",
        "3 steps trained, the fourth to the sixth; a noise a scene, its prefix shared",
        sampler__same_noise=True,
        sampler__window__start=3,
        sampler__window__size=3,
    ),
    trick(
        "batched",
        "96 transitions replayed a call",
        trainer__micro_batch_size=96,
        trainer__rollout_batch_size=9,
    ),
    trick("no-guidance", "no guidance", sampler__guidance_scale=1.0),
    Arm(
        name="nft",
        what="`nft` on deterministic rollouts, guidance and all else as in the plain recipe",
        config="world",
        changes={
            "sampler.num_steps": 10,
            "sampler.guidance_scale": 4.5,
            "algorithm.config.credit.scale": "batch",
            "trainer.minibatches": 2,
            "trainer.learning_rate": 3e-4,
            "trainer.micro_batch_size": 9,
        },
        iterations=PLAIN.iterations,
        every=PLAIN.every,
    ),
]
ARMS = {arm.name: arm for arm in (PLAIN, *TRICKS, PRESET)}
