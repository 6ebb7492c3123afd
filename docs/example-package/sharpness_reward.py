"""A reward as a package: `pip install .`, then `rlnsp train --reward sharpness`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlnsp.declaration import declares
from rlnsp.types import Sample


@declares(range=(0, 1))
class Sharpness:
    """The mean difference of neighbouring pixels in a row, in [0, 1]."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Which frames are looked at."""

        every: int = 1
        """Every so many frames."""

        def __post_init__(self) -> None:
            if self.every < 1:
                raise ValueError(f"every must be at least 1; got {self.every}")

    def __init__(self, config: Config) -> None:
        self.every = config.every

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        """One score a sample."""
        clips = [sample.frames[:: self.every].astype(np.int16) for sample in samples]
        return [float(np.abs(np.diff(clip, axis=2)).mean()) / 255 for clip in clips]
