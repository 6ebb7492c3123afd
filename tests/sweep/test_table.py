import csv
import io
import json

import numpy as np
import pytest

from rlnsp.config import ConfigError
from rlnsp.report.sweeps import SweepPage, write_sweep_report
from rlnsp.sweep import table
from rlnsp.sweep.importance import importance
from rlnsp.sweep.outcome import CellOutcome, Outcome, _compared
from rlnsp.sweep.statistics import over_seeds
from rlnsp.sweep.work import Work
from tests.report.composed import make_run
from tests.report.test_page import Tree
from tests.sweep.toys import result, toy_plan

HOSTILE = '<script>alert(1)</script> | "x"'
NOISE = np.random.default_rng(0).normal(0, 0.05, (3, 40))


def cell(name, scores, states=None):
    """A cell whose runs scored so, a row a seed."""
    results = {seed: result(list(row)) for seed, row in enumerate(scores)}
    return CellOutcome(
        name=name,
        folder=name,
        factors={"arm": name},
        results=results,
        states=states or dict.fromkeys(results, "done"),
        metric="bright",
        work=Work(forwards=42, backwards=16, trained_fraction=0.5),
        start=0.5,
        end=over_seeds([one.mean("bright") for one in results.values()]),
        distance=None,
        minutes=1.0,
    )


def outcome(*cells, seeds=(0, 1, 2)):
    return Outcome(
        metric="bright", baseline=cells[0].name, seeds=list(seeds), cells=_compared(cells, cells[0].name)
    )


@pytest.fixture(scope="module")
def found():
    """One cell is better by 0.2, one worse by 0.2, and one differs by noise."""
    other = np.random.default_rng(1).normal(0, 0.05, (3, 40))
    return outcome(
        cell("base", 0.5 + NOISE),
        cell(HOSTILE, 0.7 + other),
        cell("lower", 0.3 + other),
        cell("like", 0.5 + other),
    )


@pytest.fixture(scope="module")
def matters(found, tmp_path_factory):
    sweep = toy_plan(tmp_path_factory.mktemp("toy")).sweep
    return importance(sweep, found, study=None)  # type: ignore[arg-type]  # of a grid it is not looked at


def test_what_can_be_concluded_is_said_in_words(found):
    assert [one.reads() for one in found.cells] == ["", "better", "worse", "unclear"]
    better, worse, unclear, few = table.conclusions(found)
    assert better == f"*{HOSTILE}* is better than *base*."
    assert worse == "*lower* is worse than *base*."
    assert unclear.startswith(
        "Of *like* it cannot be said whether it is better or worse than *base*; that is no"
    )
    assert few.startswith("3 seeds are few")


def test_lower_is_better_of_a_distance(found):
    from dataclasses import replace

    cells = [replace(one, metric="distance_to_future") for one in found.cells]
    assert [one.reads() for one in cells] == ["", "worse", "better", "unclear"]


def test_p_values_are_adjusted_for_all_comparisons_of_the_table(found):
    raw = [one.difference.p for one in found.cells[1:]]
    adjusted = [one.p_adjusted for one in found.cells[1:]]
    assert adjusted[2] == raw[2]  # the largest
    assert sorted(adjusted)[0] == pytest.approx(min(1.0, 3 * min(raw)))


def test_one_seed_and_missing_runs_are_said():
    partial = cell("b", NOISE[:1] + 0.5, states={0: "done", 1: "pruned", 2: "failed"})
    said = table.conclusions(outcome(cell("a", NOISE + 0.5), partial))
    assert any("With one seed nothing is known" in line for line in said)
    assert "Not in the figures: *b* (seed 1: pruned) and *b* (seed 2: failed)." in said


def test_cells_of_no_shared_seed_or_other_scenes_are_not_compared():
    base, other = cell("a", NOISE[:1]), cell("b", NOISE[:1])
    moved = CellOutcome(**{**vars(other), "results": {7: result([0.5] * 40)}})
    assert _compared([base, moved], "a")[1].difference is None
    elsewhere = CellOutcome(**{**vars(other), "results": {0: result([0.5] * 40, scenes="others")}})
    with pytest.raises(ConfigError, match="evaluated on different held-out scenes"):
        _compared([base, elsewhere], "a")


def test_markdown_csv_and_json_say_the_same(found, matters):
    page = table.markdown(found, matters)
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(found.cells)
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "| base (baseline) | 0.500 | 0." in page
    rows = list(csv.DictReader(io.StringIO(table.csv_of(found))))
    summary = json.loads(json.dumps(table.to_json(found, matters), allow_nan=False))
    assert [row["cell"] for row in rows] == [one["cell"] for one in summary["cells"]]
    for row, one, outcome_ in zip(rows, summary["cells"], found.cells, strict=True):
        assert float(row["after_mean"]) == one["after_mean"] == outcome_.end.mean
        assert float(row["after_seed2"]) == outcome_.ends[2]
    assert (rows[0]["difference"], rows[1]["reads_as"]) == ("", "better")
    assert sum(summary["importance"]["shares"].values()) == pytest.approx(1)
    assert summary["importance"]["shares"]["arm"] > 0.9


def test_importance_says_why_it_says_nothing(found, tmp_path):
    partial = outcome(cell("a", NOISE), cell("b", NOISE[:2], states={0: "done", 1: "done", 2: "failed"}))
    assert "some are missing" in importance(toy_plan(tmp_path).sweep, partial, study=None).said  # type: ignore[arg-type]
    drawing = ("trainer.group_size=2,4", "budget=2")
    for sampler, reason in (("tpe", "no fair sample"), ("random", "needs 20 random cells, and 4 are done")):
        sweep = toy_plan(tmp_path, *drawing, f"sampler={sampler}").sweep
        assert reason in importance(sweep, found, study=None).said  # type: ignore[arg-type]


def test_the_page_has_the_table_the_curves_and_nothing_that_a_name_could_break(found, matters, tmp_path):
    runs = [make_run(tmp_path / f"run{seed}", 0.5 + seed / 4, seed=seed) for seed in (0, 1)]
    path = write_sweep_report(
        SweepPage(
            title="ablation",
            head=table.HEAD,
            rows=table.rows(found),
            reads=[one.reads() for one in found.cells],
            how_to_read=table.plain(table.how_to_read(found)),
            conclusions=[table.plain(line) for line in table.conclusions(found)],
            importance=matters.shares,
            about_importance=matters.said,
            runs={"base": runs[:1], HOSTILE: runs, "lower": [], "like": []},
            measures=["nsp_reward", "distance_to_future"],
            lower_is_better=False,
        ),
        tmp_path / "report.html",
    )
    page = Tree(path.read_text(encoding="utf-8"))
    assert page.open == []
    assert len(page.all("script")) == 1
    assert HOSTILE in page.texts
    # Clips before, and after of each cell's first run that is there.
    assert page.all("div", id="gallery")[0]["style"] == "--views: 3"
    assert f"{HOSTILE}: after 40 iterations" in [text.strip() for text in page.texts]
    assert len(page.all("video")) == 16 * 3
    assert len(page.all("svg", role="img")) == 3  # training reward, and two measures
    assert [one["class"] for one in page.all("td") if one["class"] in {"better", "worse", "unclear"}] == [
        "better",
        "worse",
        "unclear",
    ]
    assert "held-out nsp_reward" in page.texts
