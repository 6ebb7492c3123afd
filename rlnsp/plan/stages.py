"""The plan of a stage before RL: what a command that trains one answers ``rlnsp plan --stage``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rlnsp.plan.estimate import RESERVE, Rates
from rlnsp.plan.spread import Spread


@dataclass(frozen=True, kw_only=True)
class Devices:
    """What a stage is to run on."""

    count: int
    memory: float
    """Bytes of each."""
    rates: Rates
    spread: Spread


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Which stage, as its command is told it."""

    config: str
    """A shipped config of the stage, or a file."""
    overrides: Sequence[str]
    policy: str
    """The folder to start from; '': none is named."""
    pictures: Sequence[str]
    """Sub-stages whose data are still images."""


@dataclass(frozen=True, kw_only=True)
class StageRemedy:
    """A setting or flag, and the peak with it and all remedies before it."""

    override: str
    peak: float
    fits: bool


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """Of each device, in one stage."""

    name: str
    devices: Devices
    phases: Mapping[str, Mapping[str, float]]
    """Bytes by part, of each phase all that is there."""
    flops: Mapping[str, float]
    """Of a step, by what is done, on one device."""
    seconds: Mapping[str, float]
    """The same."""
    clips: int
    """Of a step, on one device."""
    steps: int
    encoding_seconds: float = 0.0
    """Of a thousand clips before the first step, by all devices together."""
    remedies: Sequence[StageRemedy] = ()
    """Where it does not fit."""

    @property
    def peak(self) -> float:
        """Bytes in the hungriest phase."""
        return max(sum(phase.values()) for phase in self.phases.values())

    @property
    def worst_phase(self) -> str:
        """Its name."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def fits(self) -> bool:
        """With the reserve left free."""
        return self.peak <= self.devices.memory * (1 - RESERVE)


@runtime_checkable
class PlansStages(Protocol):
    """What a command adds that ``rlnsp plan --stage`` may be told by its name."""

    def plan(self, asked: Asked, devices: Devices) -> Sequence[StagePlan]:
        """Of each of its stages, in order.  Reads no weights.

        Raises:
            ConfigError: settings that cannot be met, or a part whose own are not known.
        """
        ...
