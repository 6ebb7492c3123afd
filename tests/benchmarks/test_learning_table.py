import json

import pytest

from benchmarks import learning_table
from rlnsp import config


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A sweep of two arms that has run: its grpo did not rise at seed 1."""
    monkeypatch.setattr(learning_table, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "algorithms.md").write_text("above <!-- learning -->old<!-- /learning --> below")
    folder = tmp_path / "sweep"
    cells = []
    arms = {"nft": ["sampler.rule=ode"], "grpo": ["sampler.rule=cps", "sampler.noise_level=0.5"]}
    for name, own in arms.items():
        overrides = [f"algorithm.use={name}", *own, "trainer.num_iterations=20", "sampler.same_noise=false"]
        for seed in (0, 1):
            run = folder / "runs" / f"{name}-seed{seed}"
            run.mkdir(parents=True)
            (run / "config.yaml").write_text(config.to_yaml(config.load("world", overrides)))
            (run / "environment.json").write_text(json.dumps({"python": "3.11.0", "command": ["rlnsp"]}))
            low = -0.01 if (name, seed) == ("grpo", 1) else 0.05
            (run / "summary.json").write_text(json.dumps({"heldout": {"difference_ci95": [low, 0.2]}}))
        cells.append(
            {
                "cell": name,
                "folder": name,
                "before": 0.6,
                "after_mean": 0.71,
                "after_seed0": 0.7,
                "after_seed1": 0.72,
                "minutes": 2.0,
                "trained_fraction": 0.375,
                "forwards_an_iteration": 1632,
            }
        )
    summary = {"status": "done", "seeds": [0, 1], "cells": cells, "conclusions": ["2 seeds are few."]}
    (folder / "sweep.yaml").write_text("config: world\n")
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_the_table_is_written_between_the_marks(sweep, tmp_path, capsys):
    assert learning_table.main([str(sweep)]) == 1
    page = (tmp_path / "docs" / "algorithms.md").read_text()
    assert page.startswith("above <!-- learning -->")
    assert page.endswith("<!-- /learning --> below")
    assert "| `nft` | ode | 0.600 | 0.710 | 0.70, 0.72 | 2.0 | 38% | 1632 |" in page.splitlines()
    assert "| `grpo` | cps 0.5 | 0.600 | 0.710 | 0.70, 0.72 | 2.0 | 38% | 1632 |" in page.splitlines()
    assert "20 iterations, seeds 0, 1." in page
    assert "- 2 seeds are few." in page
    written = json.loads((tmp_path / "docs" / "algorithms.json").read_text())
    assert [one["cell"] for one in written["rows"]] == ["nft", "grpo"]
    assert capsys.readouterr().out.endswith("not above its start by more than chance: grpo, seed 1\n")


@pytest.mark.parametrize("status", [None, "unfinished"])
def test_what_is_not_done_of_the_sweep_is_run_first(sweep, tmp_path, monkeypatch, status):
    path = sweep / "summary.json"
    done, asked = path.read_text(), []
    path.write_text(json.dumps({"status": status})) if status else path.unlink()

    def failing(words):
        asked.append(words)
        return 2

    def finishing(words):
        path.write_text(done)
        return 0

    monkeypatch.setattr(learning_table.cli, "main", failing)
    assert learning_table.main([str(sweep), "--jobs", "2"]) == 2
    assert "old" in (tmp_path / "docs" / "algorithms.md").read_text()
    assert asked == [["sweep", "--config", "algorithms", "--output", str(sweep), "--jobs", "2"]]
    monkeypatch.setattr(learning_table.cli, "main", finishing)
    assert learning_table.main([str(sweep)]) == 1
    assert "| `nft` | ode |" in (tmp_path / "docs" / "algorithms.md").read_text()
