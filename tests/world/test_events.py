from collections import Counter

import numpy as np
import pytest

from rlnsp.world import futures, scenes
from rlnsp.world.events import KINDS, all_events, sample_events, split_of
from rlnsp.world.language import parse


def composition(event):
    return event.kind, event.actor, event.other, event.direction


def test_held_out_compositions_are_not_in_train():
    train, heldout = ({composition(event) for event in all_events(split)} for split in ("train", "heldout"))
    assert not train & heldout
    # 30 ordered pairs of colours, 2 directions, and 'either' too for rise.
    assert len(train | heldout) == 30 * (2 * 6 + 3)
    assert 0.15 < len(heldout) / len(train | heldout) < 0.25


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_held_out_compositions_to_both_sides(kind):
    sides = Counter(event.direction for event in all_events("heldout") if event.kind == kind)
    assert sides["left"] >= 6
    assert sides["right"] >= 6


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_events_are_of_their_split_also_with_a_star(split):
    events = sample_events(split, 300, np.random.default_rng(3))
    assert {split_of(event) for event in events} == {split}
    assert 0.4 < np.mean([event.bystander is not None for event in events]) < 0.65


def test_an_evaluation_has_no_scene_twice_and_kinds_in_equal_shares():
    events = sample_events("heldout", 256, np.random.default_rng(0))
    assert len(set(events)) == 256
    assert set(Counter(event.kind for event in events).values()) == {36, 37}


def test_a_star_is_of_a_third_colour():
    events = sample_events("train", 200, np.random.default_rng(1))
    assert all(len({event.actor, event.other, event.bystander}) == 3 for event in events)


def test_scenes_are_the_same_for_a_seed_and_others_for_another():
    assert scenes("heldout", 20, 4) == scenes("heldout", 20, 4)
    assert [scene.context for scene in scenes("heldout", 20, 4)] != [
        scene.context for scene in scenes("heldout", 20, 5)
    ]
    assert len({scene.id for scene in [*scenes("heldout", 20, 4), *scenes("train", 20, 4)]}) == 40


def test_scenes_say_their_split_and_kind():
    for scene in scenes("heldout", 21, 0):
        event = parse(scene.context)
        assert scene.split == split_of(event) == "heldout"
        assert scene.columns["kind"] == event.kind


def test_futures_are_the_same_for_a_seed_and_differ_within_it():
    context = scenes("train", 1, 0)[0].context
    clips = futures(context, 3, 7)
    assert clips.shape == (3, 9, 64, 64, 3)
    assert clips.dtype == np.uint8
    np.testing.assert_array_equal(clips, futures(context, 3, 7))
    assert (clips[0] != clips[1]).any()
