import numpy as np
import pytest

from rlnsp.world import Tracker
from rlnsp.world.events import Direction, Event, Kind, Speed
from rlnsp.world.motion import future
from rlnsp.world.rendering import render
from tests.world.adversaries import ADVERSARIES, doubled, shown


def red(kind: Kind, direction: Direction = "right", seed=0, speed: Speed = "slow", star: str | None = None):
    """An event of a red actor and a blue other, and one of its futures."""
    event = Event(kind=kind, actor="red", other="blue", direction=direction, speed=speed, bystander=star)
    return event, future(event, np.random.default_rng(seed))


def caption(frames):
    return Tracker().caption(frames[None])[0]


STAYS = "a blue thing stays where it is"


@pytest.mark.parametrize(
    ("kind", "direction", "expected"),
    [
        ("push", "left", "A red thing moves left and stops; a blue thing moves left."),
        ("fall", "left", f"A red thing moves left, falls and bounces; {STAYS}."),
        ("shatter", "right", f"A red thing moves right, falls and breaks; {STAYS}."),
        ("melt", "right", f"A red thing melts into a puddle; {STAYS}."),
        ("light", "right", "A dark room lights up in frame 7; a red thing and a blue thing are in it."),
        ("rise", "left", f"A red thing moves left and rises; {STAYS}."),
    ],
)
def test_true_clips_read_well(kind, direction, expected):
    assert caption(render(red(kind, direction)[1])) == expected


@pytest.mark.parametrize("speed", ["slow", "fast"])
@pytest.mark.parametrize("direction", ["left", "right"])
def test_a_ball_that_bounces_off_a_wall_comes_back_also_when_its_way_back_is_longer(direction, speed):
    for seed in range(8):
        text = caption(render(red("bounce", direction, seed, speed=speed)[1]))
        assert text == f"A red thing moves {direction} and comes back; {STAYS}."


def test_things_that_stay_are_named_together():
    text = caption(render(red("rise", star="green")[1]))
    assert text == "A red thing moves right and rises; a green thing and a blue thing stay where they are."


def test_what_vanishes_is_said_to():
    event, made = red("rise")
    text = caption(shown(made, event.actor, slice(0, 6)))
    assert text == f"A red thing moves right, rises and vanishes after frame 6; {STAYS}."


def test_what_appears_is_said_to():
    event, made = red("melt")
    text = caption(shown(made, event.other, slice(5, None)))
    assert text == "A red thing melts into a puddle; a blue thing appears in frame 6."


def test_what_is_doubled_is_said_to_be_there_twice():
    event, made = red("push")
    assert "a blue thing moves right and is there twice" in caption(doubled(made, event.other, 0, 18))


def test_what_becomes_two_is_said_to():
    event, made = red("push")
    frames = np.concatenate([render(made)[:4], doubled(made, event.other, 0, 18)[4:]])
    assert "a blue thing becomes two" in caption(frames)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("static frame", "A red thing and a blue thing stay where they are."),
        ("noise", "The picture is full of noise."),
        ("light flickering", "The light flickers; "),
        ("colours flickering", "flickers"),
    ],
)
def test_what_is_odd_is_said(name, words):
    event, made = red("rise")
    assert words in caption(ADVERSARIES[name](event, made, np.random.default_rng(0)))


def test_an_empty_room_and_a_dark_one():
    room = np.full((9, 64, 64, 3), 200, np.uint8)
    assert caption(room) == "Nothing is to be seen."
    assert caption(room // 10) == "The room stays dark."
    assert (
        caption(np.where(np.arange(9)[:, None, None, None] < 3, room, room // 10))
        == "The room goes dark in frame 4."
    )


def test_strange_colours_are_said():
    room = np.full((9, 64, 64, 3), 200, np.uint8)
    room[:, 20:30, 20:30] = (130, 210, 40)
    assert caption(room) == "There are strange colours."


def test_captions_of_true_clips_are_the_same_after_video_encoding(true_clips, encoded):
    drawn, decoded = Tracker().caption(true_clips.frames[::2]), Tracker().caption(encoded)
    assert np.mean([a == b for a, b in zip(drawn, decoded, strict=True)]) > 0.95


def test_a_caption_never_knows_what_a_thing_is(true_clips):
    for text in Tracker().caption(true_clips.frames[:70]):
        assert not {"ball", "box", "wall", "shelf", "vase", "lamp", "balloon", "ice"} & set(
            text.rstrip(".").split()
        )
