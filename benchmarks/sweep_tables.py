"""The tables of sweeps that have run, into docs/ablations.md: what its words are about.

``rlnsp sweep --config noise --output runs/noise``, then ``python -m benchmarks.sweep_tables runs/noise``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.ablation_table import fill
from benchmarks.learning_table import environment, read

ROOT = Path(__file__).parents[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Write each sweep's table between its marks, and its numbers into docs/ablations.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep_tables", description=__doc__)
    parser.add_argument(
        "sweeps", type=Path, nargs="+", metavar="SWEEP_FOLDER", help="of sweeps that are done"
    )
    args = parser.parse_args(argv)
    summaries = {sweep: read(sweep) for sweep in args.sweeps}
    page, numbers = ROOT / "docs" / "ablations.md", ROOT / "docs" / "ablations.json"
    content: dict[str, Any] = json.loads(numbers.read_text(encoding="utf-8")) if numbers.is_file() else {}
    for sweep, summary in summaries.items():
        name, text = section(sweep)
        print(text)
        fill(page, text, (f"<!-- {name} -->", f"<!-- /{name} -->"))
        content[name] = summary | {"environment": environment(sweep)}
    numbers.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


def section(sweep: Path) -> tuple[str, str]:
    """The sweep's name, and its page without title and how to read it, which docs/ablations.md says once."""
    title, *said, _how_to_read = (sweep / "sweep.md").read_text(encoding="utf-8").strip().split("\n\n")
    return title.removeprefix("# "), "\n\n".join(said)


if __name__ == "__main__":
    raise SystemExit(main())
