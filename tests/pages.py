"""What the pages show: fenced blocks, and the commands in them."""

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
"""A block may be indented, as in a list."""
WALKED = ("data.md", "scale.md")
"""Pages of which every command is run, in its order: see ``test_data_page`` and ``test_scale_page``."""


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """The text of every fenced block of a page in one of these languages."""
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        if match.group(2) in languages:
            yield textwrap.dedent(match.group(3))


def commands(page: Path) -> list[str]:
    """Every command of a page's ``sh`` blocks, in order; one that goes over several lines as one."""
    return [
        line.strip()
        for block in blocks(page, "sh")
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip() and not line.startswith("#")
    ]


def words(command: str) -> list[str]:
    """Of a command, its program first."""
    return shlex.split(command, comments=True)
