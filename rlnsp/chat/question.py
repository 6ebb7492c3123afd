"""A question to a vision-language model, and its answer."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """One turn of a user's."""

    content: Sequence[str | NDArray[np.uint8]]
    """Texts and clips (F, H, W, 3), in the order in which they are read; every frame is shown as an image."""
    max_tokens: int
    """The longest answer."""
    top_logprobs: int = 0
    """Of each token of the answer, how many of the likeliest are told with their probabilities."""

    def key(self, asked: Mapping[str, Any]) -> str:
        """A hash of the question and of ``asked``: who is asked, and how its answer is drawn, as JSON."""
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode())
        for part in self.content:
            is_text = isinstance(part, str)
            shape = "text" if is_text else f"{part.dtype} {part.shape}"
            data = part.encode() if is_text else np.ascontiguousarray(part).tobytes()
            digest.update(f"\n{shape} {len(data)}\n".encode() + data)
        digest.update(f"\n{self.max_tokens} {self.top_logprobs}".encode())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token of an answer."""

    text: str
    likeliest: tuple[tuple[str, float], ...]
    """What might have stood in its place, each with the logarithm of its probability."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model said."""

    text: str
    tokens: tuple[Token, ...] = ()
    """Empty where no probabilities were asked for."""

    def to_json(self) -> str:
        """All of it, for ``from_json``."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Answer":
        """What ``to_json`` wrote."""
        raw = json.loads(text)
        tokens = (
            Token(
                text=token["text"], likeliest=tuple((word, logprob) for word, logprob in token["likeliest"])
            )
            for token in raw["tokens"]
        )
        return cls(text=raw["text"], tokens=tuple(tokens))
