"""A server that speaks OpenAI's chat protocol, on this machine; see ``tests.judge_server.serving``."""

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from tests.judge_server import FAULTS, SLOW_S, Judge, serving

Said = str | tuple[str, list[list[tuple[str, float]]]]
"""An answer; or one and, for each of its tokens, the likeliest with their log-probabilities."""


class ChatServer(Judge):
    """Answers by ``speak(text, images)``: what it was asked, and its frames (H, W, 3), in order."""

    def __init__(self, speak: Callable[[str, list[np.ndarray]], Said], model: str = "model") -> None:
        super().__init__()
        self.speak, self.model = speak, model
        self.tells = True
        """Probabilities, where it is asked for them."""
        self.asked: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://{self.host}/v1"

    def listed(self) -> tuple[int, bytes]:
        if self.fault in FAULTS:
            return FAULTS[self.fault]
        return 200, json.dumps({"object": "list", "data": [{"id": self.model, "object": "model"}]}).encode()

    def answer(self, request: dict[str, Any]) -> tuple[int, bytes]:
        self.requests += 1
        self.asked.append(request)
        fault, self.failures = self.fault, self.failures - 1
        if self.failures == 0:
            self.fault = None
        if fault in FAULTS:
            return FAULTS[fault]
        if fault == "slow":
            time.sleep(SLOW_S)
        (message,) = request["messages"]
        text = "".join(part["text"] for part in message["content"] if part["type"] == "text")
        images = [decoded(part) for part in message["content"] if part["type"] == "image_url"]
        said = self.speak(text, images)
        words, tokens = (said, []) if isinstance(said, str) else said
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        choice["message"] = {"role": "assistant", "content": words}
        if request.get("logprobs") and self.tells:
            choice["logprobs"] = {"content": [told(token, request["top_logprobs"]) for token in tokens]}
        body = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": self.model,
            "choices": [choice],
        }
        return 200, json.dumps(body).encode()


def told(likeliest: list[tuple[str, float]], most: int) -> dict[str, Any]:
    ranked = sorted(likeliest, key=lambda one: -one[1])[:most]
    top = [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in ranked]
    return {**top[0], "top_logprobs": top}


def decoded(part: dict[str, Any]) -> np.ndarray:
    head, data = part["image_url"]["url"].split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


@contextmanager
def speaking(speak: Callable[[str, list[np.ndarray]], Said], model: str = "model") -> Iterator[ChatServer]:
    """Such a server, while the block is open."""
    server = ChatServer(speak, model)
    with serving(server):
        yield server
