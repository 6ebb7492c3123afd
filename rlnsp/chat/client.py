"""A client of servers that speak OpenAI's chat protocol: vLLM's, or a vendor's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_random_exponential

from rlnsp.chat.cache import AnswerCache
from rlnsp.chat.frames import data_uri
from rlnsp.chat.question import Answer, Question, Token
from rlnsp.chat.replicas import Replicas
from rlnsp.chat.settings import ChatConfig
from rlnsp.lane import in_background
from rlnsp.redaction import redacted
from rlnsp.settings import ConfigError, require

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletion

LONGEST_WAIT_S = 60.0
"""Before a request is made again."""
CHECK_TIMEOUT_S = 10.0
NO_KEY = "none"
"""What a server that wants no key is sent; left out, the library would send the user's key of OpenAI's."""
TRY_AGAIN = {408, 409, 429}
"""Of the statuses below 500."""


class NoServer(ConfigError):
    """Nothing answers at an address."""


class NoProbabilities(RuntimeError):
    """The server does not tell the probabilities of tokens."""


class ChatClient:
    """Asks over several servers, so many at once, again where it may help, never twice with a cache."""

    def __init__(self, config: ChatConfig, cache: AnswerCache | None = None) -> None:
        """Make no request yet.

        Raises:
            ConfigError: the environment variable of the key is not set.
        """
        from openai import AsyncOpenAI  # slow to import

        self.config, self.cache, self.model = config, cache, config.model
        self._key = os.environ.get(config.api_key_env, "") if config.api_key_env else NO_KEY
        require(
            bool(self._key),
            f"api_key_env: the environment variable {config.api_key_env} is not set; "
            "set it to the server's key",
        )
        self._servers = [
            AsyncOpenAI(base_url=url, api_key=self._key, timeout=config.timeout_s, max_retries=0)
            for url in config.base_urls
        ]
        self._replicas = Replicas(self._servers, config.rest_s)
        self._places = asyncio.Semaphore(config.concurrency)
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.answered = 0
        """Questions that a server has answered; the cache's are not counted."""

    def connect(self) -> None:
        """See that every server answers and has the model; learn its name where none was given.

        Raises:
            NoServer: one does not answer.
            ConfigError: one refuses the key, or has no such model.
        """
        in_background(self._connect()).result()

    def close(self) -> None:
        """Give its connections back; it can be asked no more."""
        for server in self._servers:
            in_background(server.close()).result()

    def answers(self, questions: Sequence[Question]) -> list[Answer | Exception]:
        """``ask_all``, from a thread that may wait."""
        return in_background(self.ask_all(questions)).result()

    async def ask_all(self, questions: Sequence[Question]) -> list[Answer | Exception]:
        """Each question's answer, or why there is none, in order.  The same question is asked once."""
        keys = [question.key(self.identity()) for question in questions]
        different = dict(zip(keys, questions, strict=True))
        found = await asyncio.gather(
            *(self.ask(question) for question in different.values()), return_exceptions=True
        )
        answers: dict[str, Answer | Exception] = {}
        for key, answer in zip(different, found, strict=True):
            if isinstance(answer, BaseException) and not isinstance(answer, Exception):
                raise answer
            answers[key] = answer
        return [answers[key] for key in keys]

    async def ask(self, question: Question) -> Answer:
        """One answer: the cache's, or a server's.

        Raises:
            openai.OpenAIError: no server answered, even when asked again.
            NoProbabilities: the server does not tell them.
            ValueError: what came is not an answer.
        """
        if self.cache is None:
            return await self._in_place(question)
        key = question.key(self.identity())
        # Whoever asks the same at the same time waits for the answer, and finds it.
        lock = self._asking.setdefault(key, asyncio.Lock())
        async with lock:
            if (known := self.cache.get(key)) is not None:
                return known
            answer = await self._in_place(question)
            self.cache.put(key, answer)
            return answer

    def identity(self) -> dict[str, Any]:
        """Which model is asked, and how, as JSON; not where, since replicas answer alike."""
        return {
            "model": self.model,
            "temperature": self.config.temperature,
            "extra_body": self.config.extra_body,
        }

    async def _in_place(self, question: Question) -> Answer:
        async with self._places:
            answer = await self._asked(question)
        self.answered += 1
        return answer

    async def _asked(self, question: Question) -> Answer:
        from openai import APIConnectionError, APIStatusError

        content: list[Any] = []
        for part in question.content:
            if isinstance(part, str):
                content.append({"type": "text", "text": part})
            else:
                content += [{"type": "image_url", "image_url": {"url": data_uri(frame)}} for frame in part]
        request: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": question.max_tokens,
            "temperature": self.config.temperature,
        }
        if question.top_logprobs:
            request |= {"logprobs": True, "top_logprobs": question.top_logprobs}
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(self.config.retries + 1),
            wait=self._wait,
            retry=retry_if_exception(_may_pass),
            reraise=True,
        ):
            with attempt, self._replicas.next() as replica:
                try:
                    completion = await replica.server.chat.completions.create(
                        **request, extra_body=self.config.extra_body
                    )
                    return _read(completion, question)
                except (APIConnectionError, APIStatusError) as error:
                    if not isinstance(error, APIStatusError) or error.status_code >= 500:
                        self._replicas.rest(replica)
                    raise
        raise AssertionError("tenacity returns, or raises the last error")

    def _wait(self, state: RetryCallState) -> float:
        """Drawn, but never less than the server asks for."""
        from openai import APIStatusError

        drawn = wait_random_exponential(multiplier=self.config.retry_wait_s, max=LONGEST_WAIT_S)(state)
        error = state.outcome and state.outcome.exception()
        asked = error.response.headers.get("retry-after", "") if isinstance(error, APIStatusError) else ""
        return max(drawn, min(float(asked), LONGEST_WAIT_S)) if asked.isdigit() else drawn

    async def _connect(self) -> None:
        for url, server in zip(self.config.base_urls, self._servers, strict=True):
            served = await self._served(url, server)
            if not self.model and served is not None and len(served) == 1:
                self.model = served[0]
            if served is None and self.model:
                continue
            require(
                served is not None and self.model in served,
                f"model: {url} has no {self.model!r}; it has {', '.join(served or ()) or 'no list of models'}"
                if self.model
                else f"model: name one; {url} has {', '.join(served or ()) or 'no list of models'}",
            )

    async def _served(self, url: str, server: AsyncOpenAI) -> list[str] | None:
        """The names of its models; None where it has no list of them."""
        from openai import APIConnectionError, APIStatusError, OpenAIError

        try:
            listed = await server.with_options(timeout=CHECK_TIMEOUT_S).models.list()
            return [model.id for model in listed.data]
        except APIConnectionError as error:
            raise NoServer(f"base_urls: no server answers at {url} ({_cause(error)})") from error
        except APIStatusError as error:
            if error.status_code in (401, 403):
                variable = self.config.api_key_env
                given = f"refuses the key in {variable}" if variable else "wants a key: name its variable"
                raise ConfigError(f"api_key_env: {url} {given} (HTTP {error.status_code})") from error
            if error.status_code in (404, 405):
                return None
            raise NoServer(f"base_urls: {url} answers with HTTP {error.status_code}") from error
        except (OpenAIError, ValueError) as error:
            raise NoServer(f"base_urls: {url} is no OpenAI-compatible server ({_cause(error)})") from error


def _may_pass(error: BaseException) -> bool:
    """Asked again, it may go well."""
    from openai import APIConnectionError, APIStatusError

    if isinstance(error, APIStatusError):
        return error.status_code >= 500 or error.status_code in TRY_AGAIN
    return isinstance(error, APIConnectionError | ValueError)


def _cause(error: Exception) -> str:
    cause = error.__cause__ or error
    return redacted(f"{type(cause).__name__}: {cause}")


def _read(completion: ChatCompletion, question: Question) -> Answer:
    """What the server said.

    Raises:
        ValueError: it is not a chat completion with a text.
        NoProbabilities: they were asked for.
    """
    # What is not JSON, such as a proxy's page, comes as a string.
    choices = getattr(completion, "choices", None)
    text = choices[0].message.content if choices else None
    if not choices or text is None:
        raise ValueError(f"the server's answer has no text: {str(completion)[:200]!r}")
    if not question.top_logprobs:
        return Answer(text=text)
    told = choices[0].logprobs and choices[0].logprobs.content
    if told is None:
        raise NoProbabilities(
            "the server tells no probabilities of its answers' tokens; choose a mode that needs none, or "
            "another server (vLLM tells them)"
        )
    tokens = (
        Token(text=token.token, likeliest=tuple((one.token, one.logprob) for one in token.top_logprobs))
        for token in told
    )
    return Answer(text=text, tokens=tuple(tokens))
