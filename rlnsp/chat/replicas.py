"""Which of several servers that answer alike takes the next request."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

Server = TypeVar("Server")


@dataclass(kw_only=True)
class Replica(Generic[Server]):
    """One of them."""

    server: Server
    open_requests: int = 0
    rests_until: float = 0.0


class Replicas(Generic[Server]):
    """The one with the fewest open requests, of those that have not failed in the last ``rest_s`` seconds."""

    def __init__(
        self, servers: Sequence[Server], rest_s: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.rest_s, self.now = rest_s, now
        self._all = [Replica(server=server) for server in servers]

    @contextmanager
    def next(self) -> Iterator[Replica[Server]]:
        """One to send a request to while the block is open.  Where all rest, the one that has rested most."""
        now = self.now()
        awake = [one for one in self._all if one.rests_until <= now]
        chosen = (
            min(awake, key=lambda one: one.open_requests)
            if awake
            else min(self._all, key=lambda one: one.rests_until)
        )
        # Of those with as few, the next time another.
        self._all.remove(chosen)
        self._all.append(chosen)
        chosen.open_requests += 1
        try:
            yield chosen
        finally:
            chosen.open_requests -= 1

    def rest(self, replica: Replica[Server]) -> None:
        """It has failed."""
        replica.rests_until = self.now() + self.rest_s
