"""Servers taken away: every Python socket of the internet families fails while the block is open."""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

CONNECTING = ("connect", "connect_ex")
TALKING = ("send", "sendall", "sendmsg", "recv", "recv_into", "recvmsg")
FAMILIES = {socket.AF_INET, socket.AF_INET6}


class Outage:
    """Counts what was tried."""

    def __init__(self) -> None:
        self.tried = 0

    def in_place_of(self, original: Callable[..., Any], error: OSError) -> Callable[..., Any]:
        """The original for sockets within the machine, such as an event loop's own; for others the error."""

        def refuse(sock: Any, *args: Any, **options: Any) -> Any:
            if sock.family not in FAMILIES:
                return original(sock, *args, **options)
            self.tried += 1
            raise error

        return refuse


@contextmanager
def no_servers() -> Iterator[Outage]:
    """Connections are refused, and open ones broken.  Clients that are not written in Python escape it."""
    outage = Outage()
    refused = ConnectionRefusedError("the server was taken away for a test")
    broken = ConnectionResetError("the server was taken away for a test")
    patches = [(socket.socket, name, refused) for name in CONNECTING]
    patches += [(socket.socket, name, broken) for name in TALKING]
    patches += [(ssl.SSLSocket, name, broken) for name in ("read", "write")]
    opened = [
        patch.object(kind, name, outage.in_place_of(getattr(kind, name), error))
        for kind, name, error in patches
    ]
    for one in opened:
        one.start()
    try:
        yield outage
    finally:
        for one in reversed(opened):
            one.stop()
