import math

import pytest

from rewards.nsp_reward.verdicts import PASS_FAIL, YES_NO, probability
from rlnsp.chat import Answer, Token, verdict
from rlnsp.types import Unscored

READ = [
    ("Pass", True),
    ("fail", False),
    (" Pass.\n", True),
    ("**Fail**", False),
    ('"Pass"', True),
    ("Verdict: Pass", True),
    ("**Answer:** fail", False),
    ("The ball stops, as it should.\n\nPass", True),
    ("It may Pass at first.\nVerdict: Fail.\n", False),
]
UNREADABLE = [
    "",
    "\n",
    "Yes",
    "Pass or Fail",
    "Not Pass",
    "Passed",
    "Pass because the ball stops",
    "Pass\nI am not sure, though.",
    "The scene passes",
    "Verdict: Pass, Fail",
]


@pytest.mark.parametrize(("text", "passed"), READ)
def test_one_word_on_the_last_line_is_a_verdict(text, passed):
    assert verdict(Answer(text=text), PASS_FAIL) is passed


@pytest.mark.parametrize("text", UNREADABLE)
def test_anything_else_is_none(text):
    with pytest.raises(Unscored, match="the judge says neither Pass nor Fail"):
        verdict(Answer(text=text), PASS_FAIL)


def test_each_question_has_its_own_words():
    assert verdict(Answer(text="Yes."), YES_NO) is True
    with pytest.raises(Unscored, match="neither Yes nor No: 'Pass'"):
        verdict(Answer(text="Pass"), YES_NO)


def said(*tokens):
    """An answer, of each of its tokens the likeliest by probability; the first is what was said."""
    made = tuple(
        Token(text=next(iter(one)), likeliest=tuple((text, math.log(p)) for text, p in one.items()))
        for one in tokens
    )
    return Answer(text="".join(token.text for token in made), tokens=made)


PROBABILITIES = [
    (said({"Pass": 0.6, "Fail": 0.2, "The": 0.2}), 0.75),
    (said({"Fail": 0.9, "Pass": 0.1}), 0.1),
    (said({" Pass": 0.3, "Pass": 0.3, " fail": 0.2, "PASS": 0.2}), 0.8),  # the same word in four tokens
    (said({"\u0120Pass": 0.5, "\u2581Fail": 0.5}), 0.5),  # as tokenizers write them
    (said({"P": 0.45, "F": 0.15, "Fa": 0.4}), 0.45),  # a token may be a word's beginning
    (said({"\n": 0.9, "Pass": 0.1}, {"Fail": 0.8, "Pass": 0.2}), 0.2),  # a line is no answer yet
    (said({"**": 0.9, "Fail": 0.1}, {"Pass": 1.0}), 1.0),
    (said({"Pass": 1.0}), 1.0),
    # What is thought before the verdict is not the verdict, even if it has the word in it.
    (said({"It": 1.0}, {" Pass": 1.0}, {"es.": 1.0}, {"\n": 1.0}, {"Fail": 0.7, "Pass": 0.3}), 0.3),
    (said({"Verdict": 1.0}, {":": 1.0}, {" P": 0.8, " Fail": 0.2}, {"ass": 1.0}, {".": 1.0}), 0.8),
]


@pytest.mark.parametrize(("answer", "expected"), PROBABILITIES)
def test_the_probability_of_passing_is_that_where_the_verdict_stands(answer, expected):
    assert probability(answer, PASS_FAIL) == pytest.approx(expected)


NO_PROBABILITIES = [
    said({"The": 0.6, "Pass": 0.3, "Fail": 0.1}),
    said({"Passing": 0.9, "Fail": 0.1}),
    said({"\n": 1.0}),
    Answer(text=""),
    said({"It": 1.0}, {"\n": 1.0}, {"Fail": 0.4, "The": 0.6}),
    said({"It": 1.0}, {"\n": 1.0}, {"Fail": 1.0}, {" or": 1.0}, {" Pass": 1.0}),
]


@pytest.mark.parametrize("answer", NO_PROBABILITIES)
def test_a_judge_that_begins_with_something_else_gives_no_probability(answer):
    with pytest.raises(Unscored, match="Pass and Fail together have a probability of"):
        probability(answer, PASS_FAIL)
