"""How little a clip flickers from frame to frame."""

from collections.abc import Sequence

import numpy as np

from rlnsp.declaration import declares
from rlnsp.types import Sample


@declares(range=(0, 1), tells=("noisy",))
class TemporalFlicker:
    """1 less the mean change of a pixel from frame to frame: VBench's temporal flickering.  In [0, 1].

    VBench (arXiv:2311.17982) takes it on clips that are to stand still: a still clip has 1, so beside motion
    that is wanted give it a small weight, or ``motion`` too.
    """

    def __call__(self, samples: Sequence[Sample]) -> list[float | None]:
        """One score a sample; None for a clip of a single frame."""
        return [
            float(1 - np.abs(np.diff(sample.frames.astype(np.int16), axis=0)).mean() / 255)
            if len(sample.frames) > 1
            else None
            for sample in samples
        ]
