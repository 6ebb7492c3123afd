"""The yield of a curation as a table."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def show(figures: Mapping[str, Any], console: Console) -> None:
    """Print what ``report.json`` says."""
    table = Table(title="Yield", title_justify="left")
    table.add_column("what")
    table.add_column("how many", justify="right")
    rows: list[tuple[str, Any]] = [
        ("videos", figures["videos"]),
        ("  of them unusable", figures["unusable_videos"]),
        ("files that break off", len(figures["broken_files"])),
        ("scenes", figures["scenes"]),
        ("clips", figures["clips"]),
        ("captions made", figures["captions"]["made"]),
        ("captions given", figures["captions"]["given"]),
        *((f"pairs kept, {kind}", count) for kind, count in figures["pairs"].items()),
        *(
            (f"  written anew {times} times", count)
            for times, count in figures["written_after_rewrites"].items()
        ),
        *((f"dropped, {reason}", count) for reason, count in figures["dropped"].items()),
        ("calls to servers, in all", figures["calls"]["in_all"]),
        ("  of them in this run", figures["calls"]["this_run"]),
        ("seconds of this run", figures["seconds"]),
    ]
    for what, count in rows:
        table.add_row(what, str(count))
    console.print(table)
