import json

import pytest

from benchmarks import learning_table
from rlnsp import config


@pytest.fixture
def sweeps(tmp_path, monkeypatch):
    """Two sweeps that have run, the second with a cell that did not rise, and a page."""
    monkeypatch.setattr(learning_table, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "algorithms.md").write_text("above <!-- learning -->old<!-- /learning --> below")
    make_sweep(tmp_path / "runs" / "sweep-algorithms", {"nft": ["sampler.rule=ode"], "grpo": []})
    make_sweep(tmp_path / "runs" / "sweep-noise", {"low": ["sampler.noise_level=0.3"]}, lows=(0.05, -0.01))
    return tmp_path / "runs"


def make_sweep(folder, cells, lows=(0.05, 0.05)):
    records = []
    for name, own in cells.items():
        use = name if name in ("nft", "grpo") else "grpo"
        overrides = [f"algorithm.use={use}", "sampler.rule=cps", "sampler.noise_level=0.5", *own]
        overrides += ["trainer.num_iterations=20", "sampler.same_noise=false"]
        for seed, low in enumerate(lows):
            run = folder / "runs" / f"{name}-seed{seed}"
            run.mkdir(parents=True)
            (run / "config.yaml").write_text(config.to_yaml(config.load("world", overrides)))
            (run / "environment.json").write_text(json.dumps({"python": "3.11.0", "command": ["rlnsp"]}))
            (run / "summary.json").write_text(json.dumps({"heldout": {"difference_ci95": [low, 0.2]}}))
        records.append(
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
    said = [f"Of {', '.join(cells)}.", "2 seeds are few."]
    summary = {"status": "done", "seeds": [0, 1], "cells": records, "conclusions": said}
    (folder / "summary.json").write_text(json.dumps(summary))


def test_the_rows_of_both_are_written_between_the_marks(sweeps, tmp_path, capsys):
    assert learning_table.main(["--output", str(sweeps)]) == 0
    page = (tmp_path / "docs" / "algorithms.md").read_text()
    assert page.startswith("above <!-- learning -->")
    assert page.endswith("<!-- /learning --> below")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [
        "| `nft` | ode | 0.600 | 0.710 | 0.70, 0.72 | 2.0 | 38% | 1632 |",
        "| `grpo` | cps 0.5 | 0.600 | 0.710 | 0.70, 0.72 | 2.0 | 38% | 1632 |",
        "| `grpo` | cps 0.3 | 0.600 | 0.710 | 0.70, 0.72 | 2.0 | 38% | 1632 |",
    ]
    assert "20 iterations, seeds 0, 1." in page
    said = [line for line in page.splitlines() if line.startswith("- ")]
    assert said == ["- Of nft, grpo.", "- 2 seeds are few.", "- Of low."]
    written = json.loads((tmp_path / "docs" / "algorithms.json").read_text())
    assert [[one["cell"] for one in sweep["rows"]] for sweep in written] == [["nft", "grpo"], ["low"]]
    assert "not above its start" not in capsys.readouterr().out


def test_an_algorithm_that_does_not_rise_is_said_and_is_a_failure(sweeps, capsys):
    (sweeps / "sweep-algorithms" / "runs" / "grpo-seed1" / "summary.json").write_text(
        json.dumps({"heldout": {"difference_ci95": [-0.01, 0.2]}})
    )
    assert learning_table.main(["--output", str(sweeps)]) == 1
    assert capsys.readouterr().out.endswith("not above its start by more than chance: grpo, seed 1\n")
