"""What the shipped sweeps found: their tables in docs/ablations.md.

python -m benchmarks.sweep_tables noise --jobs 2    # runs what is not done of the sweep, in runs/sweep-noise
python -m benchmarks.sweep_tables                   # all of them: hours
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.pages import fill
from rlnsp import cli

ROOT = Path(__file__).parents[1]
SWEEPS = ("stages", "rewards", "noise", "group_size")
"""``algorithms`` has a table of its own: ``benchmarks.learning_table``."""


class SweepFailed(SystemExit):
    """A sweep did not finish.  Where nobody catches it, it is one line and an exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write each sweep's table between its marks, and its numbers into docs/ablations.json."""
    args = parser("python -m benchmarks.sweep_tables", __doc__)
    args.add_argument("sweeps", nargs="*", default=SWEEPS, metavar="NAME", help=", ".join(SWEEPS))
    asked = args.parse_args(argv)
    page, numbers = ROOT / "docs" / "ablations.md", ROOT / "docs" / "ablations.json"
    for name in asked.sweeps:
        sweep = finished(name, asked.output, asked.jobs)
        text = section(sweep)
        print(text)
        fill(page, text, (f"<!-- {name} -->", f"<!-- /{name} -->"))
        content = json.loads(numbers.read_text(encoding="utf-8")) if numbers.is_file() else {}
        content[name] = read(sweep) | {"environment": environment(sweep)}
        numbers.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


def parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """Of a command that runs sweeps."""
    made = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--output", type=Path, default=Path("runs"), metavar="DIR", help="of the sweeps' folders (runs)"
    )
    made.add_argument("--jobs", type=int, default=1, metavar="N", help="of rlnsp sweep (1)")
    return made


def finished(name: str, output: Path, jobs: int = 1) -> Path:
    """The folder of a shipped sweep that is done; what is not done of it is run first.

    Raises:
        SweepFailed: it ended otherwise.
    """
    sweep = output / f"sweep-{name}"
    if read(sweep)["status"] != "done":
        words = ["sweep", "--config", name, "--output", str(sweep), "--jobs", str(jobs)]
        if code := cli.main(words):
            raise SweepFailed(f"rlnsp {' '.join(words)} ended with {code}; run this again to go on with it")
    return sweep


def read(sweep: Path) -> dict[str, Any]:
    """The sweep's summary."""
    path = sweep / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"status": "to do"}


def section(sweep: Path) -> str:
    """The sweep's page without its title and without how to read it, which docs/ablations.md says once."""
    _title, *said, _how_to_read = (sweep / "sweep.md").read_text(encoding="utf-8").strip().split("\n\n")
    return "\n\n".join(said)


def environment(sweep: Path) -> dict[str, Any]:
    """On what the sweep's first run was made."""
    first = min(sweep.glob("runs/*/environment.json"))
    return json.loads(first.read_text(encoding="utf-8")) | {"command": None}


if __name__ == "__main__":
    raise SystemExit(main())
