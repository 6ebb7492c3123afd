"""The labels of the judge's training are the tracker's verdicts, word for word."""

from dataclasses import replace

import numpy as np
import pytest

from pretrain.recognition import NOTHING, Recognised, follows, recognise
from rlnsp.world import Tracker, language
from rlnsp.world.events import Event
from tests.world.adversaries import ADVERSARIES
from tests.world.clips import TrueClips, make_true_clips
from tests.world.near import NEAR


@pytest.fixture(scope="module")
def clips() -> TrueClips:
    return make_true_clips(42, 3)


OTHER = Event(kind="melt", actor="red", other="blue", direction="left", speed="slow")


def found(clips: TrueClips) -> list[Recognised]:
    """What is recognised where another event is looked for first."""
    return recognise(clips.frames, [OTHER] * len(clips.frames))


def said_by_the_tracker(events: list[Event], frames: np.ndarray) -> list[bool]:
    contexts = [language.describe(event, np.random.default_rng(0)) for event in events]
    return [verdict.passed for verdict in Tracker().judge(contexts, frames)]


def test_a_true_clip_is_captioned_as_the_world_does_and_follows_from_its_scene(clips: TrueClips) -> None:
    for event, future, seen in zip(clips.events, clips.futures, found(clips), strict=True):
        assert seen.holds
        assert seen.event == replace(event, direction=future.direction)
        captions = {
            language.caption(event, future.direction, future.bounces, np.random.default_rng(seed))
            for seed in range(40)
        }
        # Two phrasings differ in how a ball comes to rest, which the tracker has its own mind about.
        kinds = {caption.replace("bounces", "lies still") for caption in captions}
        assert seen.caption.replace("bounces", "lies still") in kinds
        assert follows(event, seen)


@pytest.mark.parametrize("name", [name for name in ADVERSARIES if name != "noise"])
def test_what_is_recognised_decides_as_the_tracker_does(name: str, clips: TrueClips) -> None:
    rng = np.random.default_rng(0)
    made = [ADVERSARIES[name](*one, rng) for one in zip(clips.events, clips.futures, strict=True)]
    rows = [row for row, clip in enumerate(made) if clip is not None][::3]
    events = [clips.events[row] for row in rows]
    frames = np.stack([clip for row in rows if (clip := made[row]) is not None])
    seen = recognise(frames, events)
    assert [follows(*one) for one in zip(events, seen, strict=True)] == said_by_the_tracker(events, frames)
    # What it is a true clip of, if anything, the tracker lets pass too.
    shown = [(one.event, clip) for one, clip in zip(seen, frames, strict=True) if one.holds and one.event]
    if shown:
        assert all(said_by_the_tracker([event for event, _ in shown], np.stack([clip for _, clip in shown])))


@pytest.mark.parametrize("name", NEAR)
def test_no_clip_follows_from_a_scene_that_differs_in_one_attribute(name: str, clips: TrueClips) -> None:
    for event, seen in zip(clips.events, recognise(clips.frames, clips.events), strict=True):
        other = NEAR[name](event)
        assert other is None or not follows(other, seen)


def test_what_is_looked_for_first_does_not_change_what_a_true_clip_shows(clips: TrueClips) -> None:
    assert found(clips) == recognise(clips.frames, clips.events)


def test_a_caption_of_a_faulty_clip_says_what_fails(clips: TrueClips) -> None:
    row = next(row for row, event in enumerate(clips.events) if event.kind == "push")
    still = np.repeat(clips.frames[row][:1], len(clips.frames[row]), 0)
    (seen,) = recognise(still[None], [clips.events[row]])
    assert not seen.holds
    assert len(seen.failed) > 2
    assert seen.caption.endswith(f" What fails: {', '.join(seen.failed[:2])}.")
    # It may come nearer to another event, but of something it is still the world's sentence.
    assert seen.caption.split(" What fails")[0] == replace(seen, failed=()).caption


def test_noise_is_nothing(clips: TrueClips) -> None:
    frames = np.random.default_rng(0).integers(0, 256, clips.frames[:2].shape, dtype=np.uint8)
    seen = recognise(frames, clips.events[:2])
    assert not any(follows(clips.events[0], one) for one in seen)
    grey = np.full_like(frames[:1], 128)
    assert [one.caption for one in recognise(grey, clips.events[:1])] == [NOTHING]
