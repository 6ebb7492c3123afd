import numpy as np
import pytest

from rlnsp.world import futures, scenes
from rlnsp.world.events import COLOURS
from rlnsp.world.motion import FRAMES, Future, Item
from rlnsp.world.rendering import render
from rlnsp.world.tracking import NAMES, track


def drawn(*items, light=1.0):
    return render(Future(items=items, light=np.full(FRAMES, light), direction="right"))


def item(shape, colour, x, y, width, height, opacity=1.0):
    x, y, width, height, opacity = (
        np.broadcast_to(np.float64(v), (FRAMES,)) for v in (x, y, width, height, opacity)
    )
    return Item(shape=shape, colour=colour, x=x, y=y, width=width, height=height, opacity=opacity)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("shape", ["circle", "box", "diamond"])
def test_things_are_where_they_were_drawn_to_within_0_6_px(colour, shape):
    x, y = np.linspace(12.3, 49.9, FRAMES), np.linspace(40.7, 11.2, FRAMES)
    tracks, k = track(drawn(item(shape, colour, x, y, 11, 13))[None]), NAMES.index(colour)
    assert np.abs(tracks.x[0, :, k] - x).max() < 0.6
    assert np.abs(tracks.y[0, :, k] - y).max() < 0.6
    others = [other for other in range(len(NAMES)) if other != k]
    assert np.isnan(tracks.x[0][:, others]).all()


@pytest.mark.parametrize("colour", COLOURS)
def test_boxes_are_as_large_as_they_were_drawn(colour):
    width, height = np.linspace(8, 30, FRAMES), np.linspace(20, 5, FRAMES)
    tracks, k = track(drawn(item("box", colour, 32, 30, width, height))[None]), NAMES.index(colour)
    assert np.abs(tracks.width[0, :, k] - width).max() < 1.4
    assert np.abs(tracks.height[0, :, k] - height).max() < 1.4
    assert np.abs(tracks.area[0, :, k] / (width * height) - 1).max() < 0.2


def test_a_disc_is_as_wide_as_a_box_of_its_spread():
    # Along an axis a disc of radius r has variance r^2 / 4, a box of side s has s^2 / 12: s = r sqrt(3).
    tracks = track(drawn(item("circle", "red", 32, 30, 16, 16))[None])
    assert tracks.width[0, :, 0] == pytest.approx(8 * 3**0.5, abs=0.6)


def test_what_is_not_there_or_too_small_is_nan():
    tracks = track(drawn(item("box", "red", 32, 30, 2, 2), item("box", "blue", 20, 20, 9, 9, 0.0))[None])
    assert np.isnan(tracks.x).all()
    assert np.isnan(tracks.width).all()
    assert tracks.strange.max() == 0


def test_touching_things_make_no_third_colour():
    for actor in COLOURS:
        for other in COLOURS:
            if actor != other:
                frames = drawn(item("box", actor, 25.4, 30, 11, 11), item("box", other, 36.4, 30, 11, 11))
                tracks = track(frames[None])
                rest = [k for k, name in enumerate(NAMES) if name not in (actor, other)]
                assert tracks.area[0][:, rest].sum(-1).max() + tracks.strange[0].max() < 10


def test_a_colour_of_no_thing_is_strange():
    frames = drawn()
    frames[:, 20:30, 20:30] = (130, 210, 40)  # between yellow and green
    assert track(frames[None]).strange[0] == pytest.approx(100)


def test_light_is_the_mean_brightness():
    frames = np.full((1, FRAMES, 64, 64, 3), 77, np.uint8)
    assert track(frames).light == pytest.approx(77)


def test_clips_tracked_in_chunks_are_as_tracked_together():
    frames = np.concatenate([futures(scene.context, 1, 0) for scene in scenes("train", 14, 0)])
    whole, parts = track(frames), [track(frames[i : i + 3]) for i in range(0, 14, 3)]
    for name in ("area", "x", "y", "width", "height", "strange", "light"):
        np.testing.assert_array_equal(
            getattr(whole, name), np.concatenate([getattr(part, name) for part in parts])
        )


def test_no_clip_gives_no_track():
    assert track(np.zeros((0, FRAMES, 64, 64, 3), np.uint8)).x.shape == (0, FRAMES, len(NAMES))
