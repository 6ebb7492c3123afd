"""``rlnsp report``: what runs were, did and made, in one HTML file."""

from __future__ import annotations

import argparse
from pathlib import Path

from rlnsp.settings import ConfigError

EXAMPLE = """\
examples:
  rlnsp report runs/demo
  rlnsp report runs/paper runs/soft runs/mixed -o comparison.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``rlnsp report``."""
    parser.epilog = EXAMPLE
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="a run folder, under way or ended; each other is compared to the first",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE.html",
        help="(of one run: report.html in its folder; of several: report.html here)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the report and print where it is; the exit code."""
    output: Path = args.output or (
        args.runs[0] / "report.html" if len(args.runs) == 1 else Path("report.html")
    )
    if output.suffix != ".html":
        raise ConfigError(f"--output {output}: must end in .html")
    if args.output and not output.parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {output.parent}; make it first")

    from rlnsp.report import write_report  # brings matplotlib

    print(write_report(args.runs, output))
    return 0
