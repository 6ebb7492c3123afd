"""True clips, made once for all tests."""

import numpy as np
import pytest
from numpy.typing import NDArray

from rlnsp.world import Tracker
from tests.world import clips


@pytest.fixture(scope="session")
def true_clips() -> clips.TrueClips:
    return clips.make_true_clips(210, 0)


@pytest.fixture(scope="session")
def encoded(true_clips, tmp_path_factory) -> NDArray[np.uint8]:
    """The frames of every second true clip, after H.264."""
    return clips.encoded(true_clips.frames[::2], tmp_path_factory.mktemp("clips") / "clip.mp4")


@pytest.fixture(scope="session")
def tracker() -> Tracker:
    return Tracker()
