"""What a plan says beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20
CONVOLUTION = "aten::mkldnn_convolution"
"""oneDNN's, on a CPU: inside it lays out input, weights and output anew."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One piece of work."""

    what: str
    planned: float
    measured: float

    @property
    def error(self) -> float:
        """Of the plan, as a share of what was measured."""
        return self.planned / self.measured - 1
