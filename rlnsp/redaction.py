"""Secrets stay out of what a run writes: configs may not hold them, and messages lose them."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

_SECRET_KEY = re.compile(
    r"(?:^|_)(?:api_?key|access_?key|private_?key|token|secret|password|passwd|credentials?|authorization)$",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"\b(?:sk|pk|hf|ghp|gho|xox[abp])[-_][A-Za-z0-9_-]{16,}"  # what vendors' keys begin with
    r"|\bAKIA[A-Z0-9]{16}\b"
    r"|(?<=bearer )[^\s'\"]{8,}"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"  # a user and a password in an address
    r"|(?<=key=)[^\s&'\"]{8,}|(?<=token=)[^\s&'\"]{8,}",
    re.IGNORECASE,
)
_SHORTEST = 8
"""Characters of an environment variable's value that is worth hiding; shorter ones are words like 'true'."""


def redacted(text: str) -> str:
    """``text`` without what looks like a key, and without the value of any variable named like one."""
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST:
            text = text.replace(value, f"[{name}]")
    return _SECRET_TEXT.sub("[redacted]", text)


def secrets_in(settings: Mapping[str, Any], where: str) -> Iterator[str]:
    """The places in ``settings`` whose name or text is that of a secret, such as 'judge.config.api_key'."""
    for key, value in settings.items():
        place = f"{where}.{key}"
        if isinstance(value, Mapping):
            yield from secrets_in(value, place)
        elif isinstance(value, list | tuple):
            yield from secrets_in({str(number): item for number, item in enumerate(value)}, place)
        elif isinstance(value, str) and value and (_SECRET_KEY.search(key) or _SECRET_TEXT.search(value)):
            yield place
