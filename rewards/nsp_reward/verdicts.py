"""Reading a judge's answer, strictly: one of two words, or their probabilities."""

import math
import re

from rlnsp.chat import Answer, Token, verdict
from rlnsp.types import Unscored

PASS_FAIL = ("Pass", "Fail")
YES_NO = ("Yes", "No")
FIRST_SECOND = ("First", "Second")
LEAST_MASS = 0.5
"""Of the two words' probabilities together; below it the judge was about to say something else."""
TOP_LOGPROBS = 20
"""The most that vLLM tells unless it is started otherwise, and that OpenAI tells."""

_TOKENIZERS_SPACES = re.compile("[\u0120\u2581]")
"""How byte-level and SentencePiece tokenizers write a space, where a server gives tokens as they are."""


def probability(answer: Answer, words: tuple[str, str]) -> float:
    """p(first) / (p(first) + p(second)), from where the answer's first token with letters in it stands.

    Of a judge that thinks before: from where the verdict stands that ``rlnsp.chat.verdict`` reads.  A token
    stands for a word that it is or begins; spaces, case and punctuation do not matter.

    Raises:
        Unscored: the two have less than half of the probability between them.
    """
    first = next((token for token in answer.tokens if _letters(token.text)), None)
    mass = _mass(first, words)
    if sum(mass) < LEAST_MASS and _ends_in_verdict(answer, words):
        last = next((token for token in reversed(answer.tokens) if _meant(token.text, words)), None)
        mass = _mass(last, words)
    if sum(mass) < LEAST_MASS:
        raise Unscored(
            f"{words[0]} and {words[1]} together have a probability of {sum(mass):.2f} where the judge "
            f"begins its answer; it says {answer.text[:200]!r}"
        )
    return mass[0] / sum(mass)


def _mass(token: Token | None, words: tuple[str, str]) -> list[float]:
    """The probability of each word where ``token`` stands."""
    mass = [0.0, 0.0]
    for text, logprob in token.likeliest if token else ():
        if meant := _meant(text, words):
            mass[words.index(meant)] += math.exp(logprob)
    return mass


def _ends_in_verdict(answer: Answer, words: tuple[str, str]) -> bool:
    try:
        verdict(answer, words)
    except Unscored:
        return False
    return True


def _meant(text: str, words: tuple[str, str]) -> str:
    """The word that a token stands for, if it is one alone."""
    meant = [word for word in words if _stands_for(text, word)]
    return meant[0] if len(meant) == 1 else ""


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", " ", _TOKENIZERS_SPACES.sub(" ", text)).strip().lower()


def _stands_for(text: str, word: str) -> bool:
    letters, word = _letters(text), word.lower()
    return bool(letters) and (word.startswith(letters) or letters.split()[0] == word)
