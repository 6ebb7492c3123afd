"""How much a clip moves, and how evenly: what a policy that makes stills to please a judge has none of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlnsp.declaration import declares
from rlnsp.types import Sample


@declares(range=(0, 1), tells=("static",))
class Motion:
    """Amount of motion up to what is enough, times how evenly it is spread over time.  In [0, 1].

    With m_t the mean change of a pixel from frame t to the next, in [0, 1]:

        min(1, mean(m) / enough) * mean(m)^2 / mean(m^2)

    The second factor is 1 for even motion and 1 / (F - 1) if all of it is one jump.  VBench's dynamic degree
    (arXiv:2311.17982) measures the amount by optical flow; differences of pixels, and the evenness, are this
    project's choice.  Flicker is motion here: see ``temporal_flicker``.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What counts as enough."""

        enough: float = 0.005
        """The mean change of a pixel a frame, of its range, above which more motion gains nothing.  True
        clips of the embedded world have 0.003 to 0.09."""

        def __post_init__(self) -> None:
            if not 0 < self.enough <= 1:
                raise ValueError(f"enough must be above 0 and at most 1; got {self.enough}")

    def __init__(self, config: Config) -> None:
        self.enough = config.enough

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        """One score a sample."""
        return [self._score(sample.frames) for sample in samples]

    def _score(self, frames: NDArray[np.uint8]) -> float:
        moved = np.abs(np.diff(frames.astype(np.int16), axis=0)).mean((1, 2, 3)) / 255
        if not moved.any():  # also of a single frame
            return 0.0
        amount, evenness = moved.mean(), moved.mean() ** 2 / (moved**2).mean()
        return float(min(1.0, amount / self.enough) * evenness)
