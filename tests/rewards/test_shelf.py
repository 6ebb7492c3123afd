"""The rewards that come with rlnsp, as users find them."""

import json
import re
from pathlib import Path

from rlnsp import cli

PAGE = Path(__file__).parents[2] / "docs" / "rewards.md"
LINE = r"^\| `(\w+)` \| .* \| ([^|]+) \| ([^|]+) \| [^|]+ \|$"
BOUNDS = {"not bounded": [None, None], "up to 0": [None, 0]}


def test_the_page_has_each_with_its_range_and_needs(capsys):
    assert cli.main(["reward", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out, parse_constant=lambda name: f"{name} is not JSON")
    ours = [row for row in rows if row["from"].startswith("rewards.")]
    table = re.findall(LINE, PAGE.read_text(), re.MULTILINE)
    said = {
        name: (BOUNDS.get(scale) or [float(end) for end in scale.split(" to ")], needs.split(", "))
        for name, scale, needs in table
    }
    assert said == {row["name"]: (row["range"], row["needs"]) for row in ours}
