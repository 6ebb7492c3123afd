import base64
import io

import numpy as np
import pytest
from PIL import Image

from rlnsp.chat import FramesConfig, sampled
from rlnsp.chat.frames import data_uri


def clip(frames, height=4, width=6):
    return np.broadcast_to(np.arange(frames, dtype=np.uint8)[:, None, None, None], (frames, height, width, 3))


@pytest.mark.parametrize(
    ("frames", "fps", "at", "most", "shown"),
    [
        (9, 8.0, 3.0, 16, [0, 3, 5, 8]),  # a second: three steps of a third
        (65, 16.0, 2.0, 16, [0, 8, 16, 24, 32, 40, 48, 56, 64]),  # four seconds
        (65, 16.0, 2.0, 5, [0, 16, 32, 48, 64]),
        (9, 8.0, 100.0, 16, [*range(9)]),  # no frame is shown twice
        (3, 8.0, 0.1, 16, [0, 2]),
        (1, 8.0, 2.0, 16, [0]),
    ],
)
def test_frames_are_evenly_spread_from_the_first_to_the_last(frames, fps, at, most, shown):
    found = sampled(clip(frames), fps, FramesConfig(fps=at, max_frames=most))
    assert found[:, 0, 0, 0].tolist() == shown


def test_larger_frames_are_scaled_down_and_smaller_ones_left_alone():
    wide = np.full((2, 100, 200, 3), 77, np.uint8)
    found = sampled(wide, 8.0, FramesConfig(max_edge=50))
    assert found.shape == (2, 25, 50, 3)
    assert (found == 77).all()
    assert sampled(clip(2), 8.0, FramesConfig(max_edge=6)).shape == (2, 4, 6, 3)


@pytest.mark.parametrize("frames", [clip(0), clip(2).astype(np.float32), clip(2)[..., :1], clip(2)[0]])
def test_what_is_no_clip_is_refused(frames):
    with pytest.raises(ValueError, match=r"a clip must be uint8 of shape \(F, H, W, 3\)"):
        sampled(frames, 8.0, FramesConfig())


def test_a_frame_goes_and_comes_back_without_loss():
    frame = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    head, data = data_uri(frame).split(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), frame)
