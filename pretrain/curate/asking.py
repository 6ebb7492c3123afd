"""The questions of the pipeline, put to a captioner and a writer behind OpenAI-compatible servers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pretrain.curate.settings import Check, CurateConfig
from rlnsp.chat import Answer, ChatClient, Question, verdict
from rlnsp.chat.templates import filled
from rlnsp.redaction import redacted
from rlnsp.types import Unscored

Kind = Literal["caption", "write", "rewrite", "consistent", "restates"]
Reason = Literal["refused by the server", "nothing said", "unreadable verdict", "inconsistent", "restates"]
CHECKS: Mapping[Check, tuple[tuple[str, str], bool, Reason]] = {
    "consistent": (("Pass", "Fail"), True, "inconsistent"),
    "restates": (("Yes", "No"), False, "restates"),
}
"""Of each check the words to choose from, whether it is to be the first, and why a pair is dropped if not."""
REFUSED = {400, 413, 422}
"""HTTP statuses that are about one question, such as one that is too long; others are about the server."""


class Dropped(Exception):
    """A scene or a pair is left out."""

    def __init__(self, reason: Reason, detail: str, context: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail, self.context = detail, context
        """The latter is of a pair: what was written to come before, if it came so far."""


class ServerFailed(RuntimeError):
    """A server does not answer, even when asked again."""


class Asker:
    """Each question once, by the cache of the clients; every answer read, or its scene or pair dropped."""

    def __init__(
        self, config: CurateConfig, vlm: ChatClient, llm: ChatClient, prompts: Mapping[str, str]
    ) -> None:
        self.config, self.vlm, self.llm, self.prompts = config, vlm, llm, prompts
        self.asked: Counter[Kind] = Counter()
        """Questions by kind, whoever answered: a server, or the cache."""

    @property
    def answered(self) -> int:
        """Questions that servers have answered."""
        return self.vlm.answered + (self.llm.answered if self.llm is not self.vlm else 0)

    async def caption(self, shown: NDArray[np.uint8]) -> str:
        """What happens in a clip, of which these frames (n, H, W, 3) are shown.

        Raises:
            Dropped: it is refused, or nothing is said.
            ServerFailed: no answer.
        """
        content = [shown, self.prompts["caption"]]
        return _said(await self._ask(self.vlm, "caption", content, self.config.caption_tokens))

    async def preceding(self, caption: str, rejected: Sequence[tuple[str, str]]) -> str:
        """A scene that may come before ``caption``, after those that were refused, each with the reason.

        Raises:
            Dropped, ServerFailed: as ``caption``.
        """
        if rejected:
            listed = "\n".join(f"- {text}\n  Refused: {why}" for text, why in rejected)
            text = filled(self.prompts["rewrite"], caption=caption, rejected=listed)
        else:
            text = filled(self.prompts["write"], caption=caption)
        kind: Kind = "rewrite" if rejected else "write"
        return _said(await self._ask(self.llm, kind, [text], self.config.context_tokens))

    async def check(self, context: str, caption: str) -> None:
        """The next scene follows from the preceding one, which does not already tell it.

        Raises:
            Dropped: it does not, or a verdict cannot be read; with the checker's reason.
            ServerFailed: no answer.
        """
        for kind in self.config.checks:
            words, wanted, reason = CHECKS[kind]
            text = filled(self.prompts[kind], context=context, caption=caption)
            answer = await self._ask(self.llm, kind, [text], self.config.verdict_tokens)
            try:
                holds = verdict(answer, words) is wanted
            except Unscored as error:
                raise Dropped("unreadable verdict", f"{kind}: {error}") from error
            if not holds:
                raise Dropped(reason, _why(answer))

    async def _ask(
        self, chat: ChatClient, kind: Kind, content: Sequence[str | NDArray[np.uint8]], tokens: int
    ) -> Answer:
        from openai import APIStatusError, OpenAIError

        self.asked[kind] += 1
        try:
            return await chat.ask(Question(content=content, max_tokens=tokens))
        except APIStatusError as error:
            if error.status_code in REFUSED:
                raise Dropped("refused by the server", f"{kind}: HTTP {error.status_code}") from error
            raise _failed(kind, error) from error
        except ValueError as error:
            raise Dropped("nothing said", f"{kind}: {redacted(str(error))}") from error
        except OpenAIError as error:
            raise _failed(kind, error) from error


def _failed(kind: Kind, error: Exception) -> ServerFailed:
    return ServerFailed(f"{kind}: no answer ({redacted(f'{type(error).__name__}: {error}')})")


def _said(answer: Answer) -> str:
    """The answer in one line."""
    text = " ".join(answer.text.split())
    if not text:
        raise Dropped("nothing said", "the answer is empty")
    return text


def _why(answer: Answer) -> str:
    """What stands before the verdict."""
    *reason, _ = [line.strip() for line in answer.text.splitlines() if line.strip()]
    return " ".join(reason) or "no reason given"
