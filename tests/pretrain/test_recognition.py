"""The labels of the judge's training are the tracker's verdicts, word for word."""

from dataclasses import replace

import numpy as np
import pytest

from pretrain.recognition import follows, recognise
from rlnsp.world import Tracker, language
from rlnsp.world.events import Event
from tests.world.adversaries import ADVERSARIES
from tests.world.clips import TrueClips, make_true_clips
from tests.world.near import NEAR


@pytest.fixture(scope="module")
def clips() -> TrueClips:
    return make_true_clips(42, 3)


def said_by_the_tracker(events: list[Event], frames: np.ndarray) -> list[bool]:
    contexts = [language.describe(event, np.random.default_rng(0)) for event in events]
    return [verdict.passed for verdict in Tracker().judge(contexts, frames)]


def test_a_true_clip_is_captioned_as_the_world_does_and_follows_from_its_scene(clips: TrueClips) -> None:
    for event, future, seen in zip(clips.events, clips.futures, recognise(clips.frames), strict=True):
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
    seen = recognise(frames)
    assert [follows(*one) for one in zip(events, seen, strict=True)] == said_by_the_tracker(events, frames)
    # What it is a true clip of, if anything, the tracker lets pass too.
    found = [(one.event, clip) for one, clip in zip(seen, frames, strict=True) if one.holds and one.event]
    if found:
        assert all(said_by_the_tracker([event for event, _ in found], np.stack([clip for _, clip in found])))


@pytest.mark.parametrize("name", NEAR)
def test_no_clip_follows_from_a_scene_that_differs_in_one_attribute(name: str, clips: TrueClips) -> None:
    for event, seen in zip(clips.events, recognise(clips.frames), strict=True):
        other = NEAR[name](event)
        assert other is None or not follows(other, seen)


def test_a_caption_of_a_faulty_clip_says_what_fails(clips: TrueClips) -> None:
    row = next(row for row, event in enumerate(clips.events) if event.kind == "push")
    still = np.repeat(clips.frames[row][:1], len(clips.frames[row]), 0)
    (seen,) = recognise(still[None])
    assert not seen.holds
    # Of a ball and a box that stay where they are, a bounce has fewer checks against it than a push.
    failed = [name for name, holds in seen.checks.items() if not holds]
    assert seen.caption.endswith(f"What fails: {', '.join(failed[:3])}.")
    assert "stay where they are" in seen.caption


def test_noise_is_nothing(clips: TrueClips) -> None:
    frames = np.random.default_rng(0).integers(0, 256, clips.frames[:2].shape, dtype=np.uint8)
    assert not any(follows(clips.events[0], seen) for seen in recognise(frames))
