import json

import pytest

from benchmarks import sweep_tables
from rlnsp import config

PAGE = """# noise

| cell | after |
| --- | --- |
| a | 0.7 |

- *a* is better.

rule 30%, seeds 70%

How to read it.
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A sweep that has run, and a page with a place for it."""
    monkeypatch.setattr(sweep_tables, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "ablations.md").write_text("above <!-- noise -->old<!-- /noise --> below")
    folder = tmp_path / "any-name"
    run = folder / "runs" / "a-seed0"
    run.mkdir(parents=True)
    (run / "environment.json").write_text(json.dumps({"python": "3.11.0", "command": ["rlnsp"]}))
    (folder / "sweep.yaml").write_text("config: world\n")
    (folder / "sweep.md").write_text(PAGE)
    (folder / "summary.json").write_text(json.dumps({"status": "done", "cells": [{"cell": "a"}]}))
    return folder


def test_what_a_sweep_says_goes_between_its_marks_without_how_to_read_it(sweep, tmp_path):
    assert sweep_tables.main([str(sweep)]) == 0
    said = PAGE.partition("\n\n")[2].replace("\n\nHow to read it.\n", "")
    page = (tmp_path / "docs" / "ablations.md").read_text()
    assert page == f"above <!-- noise -->\n{said}\n<!-- /noise --> below"


def test_numbers_of_other_sweeps_stay(sweep, tmp_path):
    (tmp_path / "docs" / "ablations.json").write_text('{"rewards": {"cells": []}}')
    sweep_tables.main([str(sweep)])
    written = json.loads((tmp_path / "docs" / "ablations.json").read_text())
    assert written["rewards"] == {"cells": []}
    assert written["noise"]["cells"] == [{"cell": "a"}]
    assert written["noise"]["environment"] == {"python": "3.11.0", "command": None}


def test_one_that_is_not_done_leaves_page_and_numbers(sweep, tmp_path):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "sweep.yaml").write_text("config: world\n")
    (unfinished / "summary.json").write_text('{"status": "unfinished"}')
    with pytest.raises(config.ConfigError, match="is not done"):
        sweep_tables.main([str(sweep), str(unfinished)])
    assert "old" in (tmp_path / "docs" / "ablations.md").read_text()
    assert not (tmp_path / "docs" / "ablations.json").exists()
