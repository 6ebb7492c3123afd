"""Reading an answer that has to be one of two words."""

import re

from rlnsp.chat.question import Answer
from rlnsp.types import Unscored


def verdict(answer: Answer, words: tuple[str, str]) -> bool:
    """Whether the answer is the first of two words, and not the second.

    Its last line must be one of them and nothing else but punctuation, after "Verdict:" or "Answer:" if it
    likes; case does not matter.  So a judge may think before, but not waver.

    Raises:
        Unscored: it is neither.
    """
    lines = [line for line in answer.text.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    found = re.fullmatch(rf"\W*(?:(?:verdict|answer)\W+)?({'|'.join(words)})\W*", last, re.IGNORECASE)
    if not found:
        raise Unscored(f"the judge says neither {words[0]} nor {words[1]}: {answer.text[:200]!r}")
    return found.group(1).lower() == words[0].lower()
