"""How near a clip is to what truly happened next."""

from collections.abc import Sequence

from rlnsp.data import distances_to_nearest
from rlnsp.declaration import declares
from rlnsp.types import Sample


@declares(needs=("frames", "futures"), range=(-1, 0), tells=("shuffled", "static", "noisy"))
class ReferenceDistance:
    """Less the mean absolute difference of pixels to the nearest true next scene.  In [-1, 0].

    The true scene is the manifest's ``video``; in the embedded world, the nearest of several that may follow.
    Where more can happen than the manifest knows, it punishes clips that are as right.  A run that optimises
    it has no measure left in ``distance_to_future``, which is the same.
    """

    def __call__(self, samples: Sequence[Sample]) -> list[float | None]:
        """One score a sample; None where the true scene has another size."""
        scores: list[float | None] = []
        for sample in samples:
            assert sample.futures is not None, "declared, and checked before anything was generated"
            (distance,) = distances_to_nearest([sample.frames], sample.futures)
            scores.append(-distance if distance == distance else None)
        return scores
