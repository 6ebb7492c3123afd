"""The last frame of a clip of any size, as the first of another."""

import numpy as np
import pytest

from rlnsp.dataset import frames
from rlnsp.dataset.frames import last_frame, whole_clip
from rlnsp.dataset.safety import Limits
from rlnsp.dataset.video import UnusableVideo, decoded
from tests.videos import BLUE, GREEN, RED, audio_only, cut_together, encode, moving, truncated


def test_of_a_clip_of_the_same_size_it_is_the_last_frame_itself(tmp_path):
    path = encode(tmp_path / "a.mp4", cut_together(RED, BLUE, frames=3, height=32, width=64))
    clip, fps = whole_clip(path, Limits())
    assert clip.shape == (6, 32, 64, 3)
    assert fps == pytest.approx(16, rel=1e-2)
    assert np.array_equal(last_frame(path, (32, 64), Limits()), clip[-1])
    assert np.abs(clip[-1].astype(int) - clip[0]).max() > 50


def test_of_another_size_it_covers_the_frame_and_its_middle_stays(tmp_path):
    clip = moving(GREEN, 4, 40, 120)
    clip[:] = GREEN
    clip[-1, :, :40], clip[-1, :, 80:] = RED, BLUE
    path = encode(tmp_path / "a.mp4", clip)
    square = last_frame(path, (20, 20), Limits())
    assert square.shape == (20, 20, 3)
    assert np.abs(square.astype(int) - GREEN)[:, 3:-3].max() < 40
    wide = last_frame(path, (20, 60), Limits())
    for columns, colour in ((slice(0, 16), RED), (slice(24, 36), GREEN), (slice(44, 60), BLUE)):
        assert np.abs(wide[:, columns].astype(int) - colour).max() < 40


def test_pixels_that_are_wider_than_high_are_shown_so(tmp_path):
    clip = moving(GREEN, 2, 40, 60)
    clip[:] = GREEN
    clip[-1, :, :15], clip[-1, :, 45:] = RED, BLUE
    path = encode(tmp_path / "a.mp4", clip, sar="2/1")  # shown as 40 x 120
    square = last_frame(path, (20, 20), Limits())
    assert np.abs(square.astype(int) - GREEN)[:, 2:-2].max() < 40


@pytest.mark.parametrize(
    ("limits", "kind"), [(Limits(max_seconds=0.2), "too long"), (Limits(max_pixels=100), "too large")]
)
def test_limits_hold(tmp_path, limits, kind):
    path = encode(tmp_path / "a.mp4", moving(RED, 9))
    with pytest.raises(UnusableVideo) as raised:
        last_frame(path, (20, 20), limits)
    assert raised.value.kind == kind


def test_frames_of_more_than_one_size_are_no_clip(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mp4", moving(RED, 3))

    def other_sizes(container, limits):
        for seconds, frame in decoded(container, limits):
            yield seconds, frame if not seconds else frame.reformat(width=48, height=36)

    monkeypatch.setattr(frames, "decoded", other_sizes)
    with pytest.raises(UnusableVideo, match="more than one size"):
        whole_clip(path, Limits())
    assert last_frame(path, (20, 20), Limits()).shape == (20, 20, 3)


def test_what_has_no_last_frame_is_said(tmp_path):
    truncated(tmp_path / "cut.mp4", moving(RED, 30))
    audio_only(tmp_path / "sound.mp4")
    for name, kind in (("cut.mp4", "broken"), ("sound.mp4", "no pictures"), ("none.mp4", "missing")):
        with pytest.raises(UnusableVideo) as raised:
            last_frame(tmp_path / name, (20, 20), Limits())
        assert raised.value.kind == kind
