"""``rlnsp reward list``: what --reward can be given."""

from __future__ import annotations

import argparse

from rlnsp import plugins

EXAMPLE = """\
example:
  rlnsp reward list
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``rlnsp reward``."""
    parser.epilog = EXAMPLE
    parser.add_argument(
        "action", choices=["list"], help="list: each installed reward, with what it says of itself"
    )


def run(args: argparse.Namespace) -> int:
    """Print the installed rewards; the exit code."""
    for name, point in plugins.installed("rewards").items():
        about = (point.load().__doc__ or "").strip().partition("\n")[0]
        print(f"{name:<16} {about}\n{'':<16} {point.value}")
    return 0
