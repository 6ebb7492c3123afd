"""The shipped prompts are what their page says: many, varied, concrete, each with a checklist of its own."""

from collections import Counter
from itertools import combinations

import pytest

from rlnsp.benchmark import suite
from rlnsp.manifest import read_manifest

CATEGORIES = {"physical", "natural", "human_action", "everyday_objects", "social", "machines"}
OPENINGS = {"Does", "Do", "Is", "Are", "Can", "If"}


@pytest.fixture(scope="module")
def scenes():
    return read_manifest(suite.load("nsp").prompts)


def words(text):
    return {word.strip(".,;'").lower() for word in text.split()}


def overlap(one, other):
    """Of the words of two texts, the share that they have in common."""
    return len(words(one) & words(other)) / len(words(one) | words(other))


def test_there_are_enough_in_every_category(scenes):
    counts = Counter(scene.columns["category"] for scene in scenes)
    assert set(counts) == CATEGORIES
    assert min(counts.values()) >= 30
    assert sum(counts.values()) >= 200


def test_no_two_are_nearly_the_same(scenes):
    near = [(a.id, b.id) for a, b in combinations(scenes, 2) if overlap(a.context, b.context) > 0.4]
    assert near == []


def test_a_description_is_long_enough_to_film_and_short_enough_for_a_text_encoder(scenes):
    lengths = {scene.id: len(scene.context.split()) for scene in scenes}
    assert {name: n for name, n in lengths.items() if not 8 <= n <= 45} == {}
    assert [scene.id for scene in scenes if not scene.context.endswith(".")] == []


def test_every_checklist_has_two_to_four_questions_to_answer_with_yes_or_no(scenes):
    for scene in scenes:
        questions = scene.columns["checklist"]
        assert 2 <= len(questions) <= 4
        assert len(set(questions)) == len(questions)
        for question in questions:
            assert question.endswith("?")
            assert question.split()[0] in OPENINGS
            assert 3 <= len(question.split()) <= 20


def test_a_description_can_be_the_name_of_a_file(scenes):
    assert [scene.id for scene in scenes if "/" in scene.context or len(scene.context) > 240] == []
