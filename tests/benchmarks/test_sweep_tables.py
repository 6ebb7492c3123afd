import json

import pytest

from benchmarks import sweep_tables

PAGE = """# sweep-noise

| cell | after |
| --- | --- |
| a | 0.7 |

- *a* is better.

rule 30%, seeds 70%

How to read it.
"""


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A sweep that has run, and a page with a place for it."""
    monkeypatch.setattr(sweep_tables, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "ablations.md").write_text("above <!-- noise -->old<!-- /noise --> below")
    folder = tmp_path / "runs" / "sweep-noise"
    run = folder / "runs" / "a-seed0"
    run.mkdir(parents=True)
    (run / "environment.json").write_text(json.dumps({"python": "3.11.0", "command": ["rlnsp"]}))
    (folder / "sweep.md").write_text(PAGE)
    (folder / "summary.json").write_text(json.dumps({"status": "done", "cells": [{"cell": "a"}]}))
    return tmp_path / "runs"


def test_what_a_sweep_says_goes_between_its_marks_without_how_to_read_it(runs, tmp_path):
    assert sweep_tables.main(["noise", "--output", str(runs)]) == 0
    said = PAGE.partition("\n\n")[2].replace("\n\nHow to read it.\n", "")
    page = (tmp_path / "docs" / "ablations.md").read_text()
    assert page == f"above <!-- noise -->\n{said}\n<!-- /noise --> below"


def test_numbers_of_other_sweeps_stay(runs, tmp_path):
    (tmp_path / "docs" / "ablations.json").write_text('{"rewards": {"cells": []}}')
    sweep_tables.main(["noise", "--output", str(runs)])
    written = json.loads((tmp_path / "docs" / "ablations.json").read_text())
    assert written["rewards"] == {"cells": []}
    assert written["noise"]["cells"] == [{"cell": "a"}]
    assert written["noise"]["environment"] == {"python": "3.11.0", "command": None}


@pytest.mark.parametrize("status", [None, "unfinished"])
def test_what_is_not_done_is_run_first_and_a_failure_leaves_the_page(runs, tmp_path, monkeypatch, status):
    path = runs / "sweep-noise" / "summary.json"
    done, asked = path.read_text(), []
    path.write_text(json.dumps({"status": status})) if status else path.unlink()

    def failing(words):
        asked.append(words)
        return 2

    def finishing(words):
        path.write_text(done)
        return 0

    monkeypatch.setattr(sweep_tables.cli, "main", failing)
    with pytest.raises(sweep_tables.SweepFailed, match="ended with 2; run this again"):
        sweep_tables.main(["noise", "--output", str(runs), "--jobs", "2"])
    assert "old" in (tmp_path / "docs" / "ablations.md").read_text()
    folder = str(runs / "sweep-noise")
    assert asked == [["sweep", "--config", "noise", "--output", folder, "--jobs", "2"]]
    monkeypatch.setattr(sweep_tables.cli, "main", finishing)
    assert sweep_tables.main(["noise", "--output", str(runs)]) == 0
    assert "| a | 0.7 |" in (tmp_path / "docs" / "ablations.md").read_text()
