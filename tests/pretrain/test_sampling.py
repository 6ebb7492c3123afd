"""Clips of one size and rate, of videos of any."""

from pathlib import Path

import numpy as np
import pytest

from pretrain.sampling import Part, sample_clip, small_frames
from rlnsp.dataset.frames import nearest_shape
from rlnsp.dataset.safety import Limits
from rlnsp.dataset.video import UnusableVideo
from rlnsp.manifest import read_clip
from tests.videos import RED, encode, moving

LIMITS = Limits()


def steps(n: int, height: int = 64, width: int = 64) -> np.ndarray:
    """Frame t has the grey level 10 t."""
    return np.stack([np.full((height, width, 3), 10 * t, np.uint8) for t in range(n)])


def levels(clip: np.ndarray) -> list[int]:
    """The frames of ``steps`` that a clip shows."""
    return (clip.mean((1, 2, 3)) / 10).round().astype(int).tolist()


def test_a_clip_of_the_very_size_and_rate_is_left_as_it_is(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", moving(RED, 9, 64, 96), fps=8.0)
    assert np.array_equal(sample_clip(path, 9, 8.0, [(64, 96)], LIMITS), read_clip(path)[0])


@pytest.mark.parametrize(
    ("rate", "fps", "n", "expected"),
    [
        (24.0, 8.0, 6, [0, 3, 6, 9, 12, 15]),  # every third
        (24.0, 16.0, 6, [0, 1, 3, 4, 6, 7]),  # frame floor(1.5 k)
        (8.0, 16.0, 6, [0, 0, 1, 1, 2, 2]),  # each twice
        (24000 / 1001, 24.0, 5, [0, 1, 2, 3, 4]),  # late by less than a millisecond
    ],
)
def test_for_each_moment_the_frame_that_is_shown_then(
    tmp_path: Path, rate: float, fps: float, n: int, expected: list[int]
) -> None:
    path = encode(tmp_path / "a.mp4", steps(20), fps=rate)
    assert levels(sample_clip(path, n, fps, [(64, 64)], LIMITS)) == expected


def test_rates_may_vary(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.13, 0.6, 0.61, 0.9, 1.5]
    path = encode(tmp_path / "a.mp4", steps(7), times=times)
    # At 0, 1/8, ..., 8/8 s the last frame whose time has come.
    expected = [max(n for n, time in enumerate(times) if time <= k / 8) for k in range(9)]
    assert levels(sample_clip(path, 9, 8.0, [(64, 64)], LIMITS)) == expected == [0, 1, 2, 2, 2, 4, 4, 4, 5]


def test_a_part_begins_at_its_start_and_shows_nothing_after_its_end(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", steps(24), fps=8.0)
    assert levels(sample_clip(path, 5, 8.0, [(64, 64)], LIMITS, Part(start=1.5))) == [12, 13, 14, 15, 16]
    assert levels(sample_clip(path, 6, 8.0, [(64, 64)], LIMITS, Part(start=1.5, end=2.25))) == [
        12,
        13,
        14,
        15,
        16,
        17,
    ]
    with pytest.raises(UnusableVideo, match="is too short: 6 of 7 frames, which take 0.75 s") as error:
        sample_clip(path, 7, 8.0, [(64, 64)], LIMITS, Part(start=1.5, end=2.25))
    assert error.value.kind == "too short"


def test_a_part_ends_while_a_frame_is_shown(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", steps(4), fps=2.0)
    part = Part(start=0.5, end=1.2)
    assert levels(sample_clip(path, 7, 10.0, [(64, 64)], LIMITS, part)) == [1, 1, 1, 1, 1, 2, 2]
    with pytest.raises(UnusableVideo, match="7 of 8"):
        sample_clip(path, 8, 10.0, [(64, 64)], LIMITS, part)


def test_the_last_frame_is_shown_as_long_as_it_lasts(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", steps(8), fps=8.0)
    assert levels(sample_clip(path, 16, 16.0, [(64, 64)], LIMITS)) == [n // 2 for n in range(16)]
    with pytest.raises(UnusableVideo, match="too short: 16 of 17"):
        sample_clip(path, 17, 16.0, [(64, 64)], LIMITS)


def test_the_shape_is_the_one_of_the_nearest_aspect(tmp_path: Path) -> None:
    shapes = [(64, 96), (96, 64), (64, 64)]
    assert nearest_shape(720, 1280, shapes) == (64, 96)
    assert nearest_shape(1280, 720, shapes) == (96, 64)
    assert nearest_shape(500, 520, shapes) == (64, 64)
    # Between 1:1 and 3:2 the border is their geometric mean, 1.2247.
    assert nearest_shape(1000, 1224, shapes) == (64, 64)
    assert nearest_shape(1000, 1225, shapes) == (64, 96)
    for height, width in ((50, 90), (90, 50), (71, 75)):
        path = encode(tmp_path / "a.mp4", steps(3, height, width))
        shape = sample_clip(path, 2, 8.0, shapes, LIMITS).shape
        assert shape[1:3] == nearest_shape(height, width, shapes)


def test_what_does_not_fit_is_cropped_around_the_middle_not_squeezed(tmp_path: Path) -> None:
    frames = np.zeros((3, 64, 128, 3), np.uint8)
    frames[:, :, 60:68] = 255  # a bar of 8 pixels in the middle
    frames[:, :, :16] = frames[:, :, -16:] = (255, 0, 0)  # cropped away
    clip = sample_clip(encode(tmp_path / "a.mp4", frames), 2, 8.0, [(64, 64)], LIMITS)
    assert clip.shape == (2, 64, 64, 3)
    bright = clip[0].min(-1).mean(0) > 128
    assert np.flatnonzero(bright).tolist() == list(range(28, 36))
    red = clip[..., 0].astype(int) - clip[..., 1]
    assert red.max() < 40


def test_pixels_that_are_wider_than_high_are_shown_so(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", steps(3, 64, 64), sar="3/2")
    assert sample_clip(path, 2, 8.0, [(64, 64), (64, 96)], LIMITS).shape[1:3] == (64, 96)


def test_small_frames_keep_their_times_and_are_bgr(tmp_path: Path) -> None:
    times = [0.0, 0.25, 0.3, 1.0]
    path = encode(tmp_path / "a.mp4", moving(RED, 4, 128, 192), times=times)
    found = list(small_frames(path, 32, LIMITS))
    assert [seconds for seconds, _, _ in found] == pytest.approx(times, abs=1e-3)
    assert {frame.shape for _, _, frame in found} == {(32, 48, 3)}
    assert found[0][2].mean((0, 1)).argmax() == 2  # red is last
