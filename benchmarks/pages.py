"""Pages of the docs that a benchmark's figures are put into, between two marks."""

from __future__ import annotations

import argparse
from pathlib import Path


def fill(path: Path, text: str, marks: tuple[str, str]) -> None:
    """Put ``text`` between the marks of a page.

    Raises:
        ValueError: the page does not have each mark once, in order.
    """
    before, opening, rest = path.read_text(encoding="utf-8").partition(marks[0])
    _, closing, after = rest.partition(marks[1])
    if not (opening and closing) or any(mark in after for mark in marks):
        raise ValueError(f"{path}: must have {marks[0]} and {marks[1]} once each, in this order")
    path.write_text(f"{before}{opening}\n{text}\n{closing}{after}", encoding="utf-8")


def page_to_write(description: str | None, marks: tuple[str, str]) -> Path | None:
    """What ``--write PAGE`` names, the one argument of a command whose table goes between ``marks``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--write", type=Path, metavar="PAGE", help=f"put the table between {' and '.join(marks)}"
    )
    return parser.parse_args().write
