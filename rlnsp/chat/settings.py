"""Which model is asked, where, and how."""

from dataclasses import dataclass, field
from typing import Any

from rlnsp.settings import require


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """Which model is asked, where, and how."""

    base_urls: list[str] = field(default_factory=lambda: ["http://127.0.0.1:8000/v1"])
    """Of servers with the same model, which share the load.  Each ends where '/chat/completions' begins."""
    model: str = ""
    """The served name.  Empty: the only one that the server has."""
    api_key_env: str = ""
    """The name of the environment variable that holds the key; never the key.  Empty: none is sent."""
    temperature: float = 0.0
    extra_body: dict[str, Any] = field(default_factory=dict)
    """Further fields of every request, such as a vendor's own."""
    concurrency: int = 32
    """Requests at once, over all servers."""
    timeout_s: float = 120.0
    """Of a request."""
    retries: int = 5
    """How often a request is made again after a timeout, a lost connection, HTTP 429 or a server's error."""
    retry_wait_s: float = 1.0
    """The wait before that is drawn between 0 and this, doubled each time; at most a minute."""
    rest_s: float = 30.0
    """How long a replica that failed is passed over while others answer."""

    def __post_init__(self) -> None:
        require(bool(self.base_urls), "base_urls must name at least one server, as http://127.0.0.1:8000/v1")
        for url in self.base_urls:
            require(
                url.startswith(("http://", "https://")),
                f"base_urls: {url!r} must begin with http:// or https://, and end in /v1",
            )
        for name in ("temperature", "retries", "retry_wait_s", "rest_s"):
            value = getattr(self, name)
            require(value >= 0, f"{name} must be 0 or more; got {value}")
        require(self.concurrency >= 1, f"concurrency must be at least 1; got {self.concurrency}")
        require(self.timeout_s > 0, f"timeout_s must be positive; got {self.timeout_s}")
