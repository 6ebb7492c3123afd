from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from rlnsp.world.events import COLOURS, KINDS, Event
from rlnsp.world.language import (
    CAPTIONS,
    CONTEXTS,
    EITHER_CONTEXTS,
    SPEED_WORDS,
    STARS,
    UnknownContext,
    caption,
    describe,
    facts,
    parse,
)

PHRASINGS = [(kind, text, d) for kind in KINDS for text in CONTEXTS[kind] for d in ("left", "right")]
PHRASINGS += [("rise", text, "either") for text in EITHER_CONTEXTS]


@pytest.mark.parametrize(("kind", "text", "direction"), PHRASINGS)
def test_every_phrasing_is_read_back_as_its_event(kind, text, direction):
    for actor, other in product(COLOURS, COLOURS):
        for speed, words in SPEED_WORDS.items():
            event = Event(kind=kind, actor=actor, other=other, direction=direction, speed=speed)
            for word in words:
                assert parse(text.format(a=actor, b=other, d=direction, speed=word)) == event


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("star", STARS)
def test_every_phrasing_is_read_back_with_its_star(kind, star):
    event = Event(kind=kind, actor="red", other="blue", direction="left", speed="slow")
    for text, colour, side in product(CONTEXTS[kind], COLOURS, ("left", "right")):
        sentence = text.format(a="red", b="blue", d="left", speed="slowly") + star.format(c=colour, side=side)
        assert parse(sentence) == replace(event, bystander=colour, bystander_side=side)


def test_describe_uses_every_phrasing_and_is_read_back():
    rng = np.random.default_rng(0)
    event = Event(
        kind="push",
        actor="cyan",
        other="red",
        direction="left",
        speed="fast",
        bystander="green",
        bystander_side="right",
    )
    sentences = {describe(event, rng) for _ in range(200)}
    assert len(sentences) == 3 * 2 * 2
    assert {parse(sentence) for sentence in sentences} == {event}


def test_no_two_phrasings_say_the_same():
    texts = [text for kind in KINDS for text in CONTEXTS[kind]] + list(EITHER_CONTEXTS)
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A frozen river begins to crack.",
        "A pink ball rolls slowly right toward a blue box.",
        "A red ball rolls slowly up toward a blue box.",
        "A red ball rolls slowly right toward a blue box",
        "A red ball rolls slowly right toward a blue box. A star hangs at the top left.",
        "So: A red ball rolls slowly right toward a blue box.",
    ],
)
def test_another_text_is_refused_with_a_remedy(text):
    with pytest.raises(
        UnknownContext, match="not a preceding scene of the embedded world: .*choose another judge"
    ) as info:
        parse(text)
    assert isinstance(info.value, ValueError)
    assert "\n" not in str(info.value)


def test_space_around_a_sentence_does_not_matter():
    assert parse(" A red ball rolls slowly right toward a blue box.\n").kind == "push"


@pytest.mark.parametrize("kind", KINDS)
def test_captions_name_the_colours_and_where_the_actor_really_went(kind):
    event = Event(
        kind=kind, actor="red", other="blue", direction="either" if kind == "rise" else "left", speed="slow"
    )
    texts = {caption(event, "left", False, np.random.default_rng(seed)) for seed in range(30)}
    assert len(texts) == len(CAPTIONS[kind]) * len(SPEED_WORDS["slow"])
    for text in texts:
        assert "{" not in text
        assert "either" not in text
        assert {"red", "blue"} <= set(text.replace(",", " ").replace(".", " ").split())
        assert ("left" in text) or kind == "shatter"


def test_facts_name_what_is_to_be_known_of_a_scene():
    event = Event(kind="rise", actor="red", other="blue", direction="either", speed="slow")
    known = {
        "event": "rise",
        "actor": "red",
        "other": "blue",
        "side": "left",
        "speed": "slow",
        "star": "none",
    }
    assert facts(event, "left") == known
    star = replace(event, bystander="green", bystander_side="right")
    assert facts(star, "left") == {**known, "star": "green right"}


def test_a_caption_says_whether_the_ball_bounces():
    event = Event(kind="fall", actor="red", other="blue", direction="left", speed="slow")
    assert "bounces" in caption(event, "left", True, np.random.default_rng(0))
    assert "lies still" in caption(event, "left", False, np.random.default_rng(0))
