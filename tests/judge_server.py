"""A judge behind HTTP on this machine, which can be made to fail in every way that judges do."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

FAULTS = {
    "400": (400, b"{}"),
    "401": (401, b"{}"),
    "429": (429, b"{}"),
    "500": (500, b"boom"),
    "malformed": (200, b'{"scores": [0.1, '),
    "empty": (200, b'{"verdict": "fine"}'),
}
SLOW_S = 1.5


class Judge:
    """Scores a clip by its mean brightness, in [0, 1]; ``fault`` says how it fails from now on."""

    def __init__(self) -> None:
        self.fault: str | None = None
        self.failures = -1
        """How many requests fail before the fault goes away; -1: all."""
        self.requests = 0
        self.keys: set[str | None] = set()
        self.host = ""

    def answer(self, request: dict[str, Any]) -> tuple[int, bytes]:
        """Status and body."""
        self.requests += 1
        scores: list[float | None] = [
            float(np.frombuffer(base64.b64decode(clip["pixels"]), np.uint8).mean()) / 255
            for clip in request["clips"]
        ]
        fault, self.failures = self.fault, self.failures - 1
        if self.failures == 0 and fault:
            self.fault = None
        if fault in FAULTS:
            return FAULTS[fault]
        if fault == "slow":
            time.sleep(SLOW_S)
        if fault == "wrong length":
            scores.append(0.5)
        if fault == "half the batch":
            scores = scores[: len(scores) // 2]
        if fault == "half unscored":
            scores[::2] = [None] * len(scores[::2])
        if fault == "nan":
            scores[0] = float("nan")
        return 200, json.dumps({"scores": scores}).encode()

    def listed(self) -> tuple[int, bytes]:
        """What it says of itself."""
        return 404, b"{}"


@contextmanager
def serving(judge: Judge, port: int = 0) -> Iterator[int]:
    """The judge at a port of the loopback, while the block is open; all connections are cut at its end."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            judge.keys.add(self.headers["Authorization"])
            self.reply(*judge.listed())

        def do_POST(self) -> None:
            judge.keys.add(self.headers["Authorization"])
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.reply(*judge.answer(json.loads(body)))

        def reply(self, status: int, answer: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:  # whoever asked has given up
                return

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    judge.host = f"127.0.0.1:{server.server_address[1]}"
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
