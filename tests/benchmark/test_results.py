import csv
import io
import math

import numpy as np
import pytest

from rlnsp.benchmark import tables
from rlnsp.benchmark.results import Results, Row
from rlnsp.evaluate import DISTANCE, Evaluation
from rlnsp.sweep.statistics import holm, paired_difference
from rlnsp.types import Scene

N = 40
SCENES = [Scene(id=f"s{i}", context="c", columns={"kind": "push" if i % 2 else "fall"}) for i in range(N)]
RNG = np.random.default_rng(0)
LOW = (RNG.random(N) < 0.3).astype(float).tolist()
HIGH = (RNG.random(N) < 0.8).astype(float).tolist()
FAR = RNG.random(N).tolist()
MEASURED = {"judge": LOW, DISTANCE: FAR}


def row(name, scores, memory_of="", seconds_a_clip: float | None = 1.5, peak_bytes: int | None = 2**30):
    evaluation = Evaluation(
        scene_ids=[s.id for s in SCENES], scores=scores, how={"seeds": [0]}, bootstrap=200
    )
    return Row(
        name=name,
        evaluation=evaluation,
        seconds_a_clip=seconds_a_clip,
        peak_bytes=peak_bytes,
        memory_of=memory_of,
    )


def results(*rows):
    return Results(scenes=SCENES, rows=[*rows], by="kind")


TWO = results(row("a", MEASURED), row("b", {"judge": HIGH, DISTANCE: FAR}, memory_of="process"))


def test_a_row_is_compared_to_the_first_scene_by_scene():
    found = TWO.comparisons()
    assert set(found) == {("b", "judge"), ("b", DISTANCE)}
    one = found["b", "judge"]
    assert one.difference.mean == pytest.approx(np.mean(HIGH) - np.mean(LOW))
    pairs = list(zip(LOW, HIGH, strict=True))
    assert (one.higher, one.lower) == (pairs.count((0, 1)), pairs.count((1, 0)))
    assert one.difference.p < 0.01
    same = found["b", DISTANCE]
    assert (same.difference.mean, same.difference.p, same.higher, same.lower) == (0, 1, 0, 0)


def test_p_is_adjusted_for_all_comparisons():
    more = results(*TWO.rows, row("c", MEASURED | {"judge": (np.array(LOW) * 0.9).tolist()}))
    alone = [
        paired_difference(np.array([MEASURED[m]]), np.array([r.evaluation.scores[m]])).p
        for r in more.rows[1:]
        for m in ("judge", DISTANCE)
    ]
    adjusted = [one.difference.p for one in more.comparisons().values()]
    assert adjusted == holm(alone) != alone


def test_what_a_row_lacks_is_no_number_in_any_table():
    unknown = row("b", {"judge": [math.nan] * N, DISTANCE: FAR}, seconds_a_clip=None, peak_bytes=None)
    found = results(TWO.rows[0], unknown)
    assert set(found.comparisons()) == {("b", DISTANCE)}
    assert found.to_json()["b"]["measures"]["judge"] is None
    line = next(line for line in tables.markdown(found).splitlines() if line.startswith("| b |"))
    cells = line.split(" | ")
    assert (cells[1], cells[3], cells[4]) == ("-", "-", "- |")
    lines = list(csv.DictReader(io.StringIO(tables.as_csv(found))))
    (judged,) = [one for one in lines if (one["policy"], one["measure"]) == ("b", "judge")]
    assert (judged["mean"], judged["scenes"], judged["p"], judged["peak_bytes"]) == ("nan", "0", "", "")


def test_a_measure_that_nobody_has_is_left_out():
    nothing = [math.nan] * N
    found = results(row("a", {"judge": LOW, DISTANCE: nothing}), row("b", {"judge": HIGH, DISTANCE: nothing}))
    assert found.measures == ["judge"]
    assert DISTANCE not in tables.markdown(found)


def test_a_reward_that_scored_nothing_at_all_is_said():
    nothing = [math.nan] * N
    text = tables.markdown(results(row("a", {"judge": nothing, "other": LOW, DISTANCE: nothing})))
    assert "| policy | other ↑ | s a clip" in text
    assert "- judge: could not be measured on any scene" in text


def test_categories_have_the_means_of_their_own_scenes():
    found = TWO.categories()["b"]["push"]["judge"]
    assert found.n == N // 2
    assert found.mean == pytest.approx(np.mean(HIGH[1::2]))
    assert f"| b | {np.mean(HIGH[::2]):.3f} | {found.mean:.3f} |" in tables.markdown(TWO)


def test_the_tables_say_which_way_is_better_and_what_memory_it_is():
    text = tables.markdown(TWO)
    assert "| policy | judge ↑ | distance_to_future ↓ | s a clip | GiB |" in text
    assert f"| a | {np.mean(LOW):.3f} " in text
    assert "1.00 |" in text
    assert "resident memory" in text
    assert "resident memory" not in tables.markdown(results(TWO.rows[0]))


def test_every_score_is_in_the_csv():
    lines = list(csv.DictReader(io.StringIO(tables.scores_csv(TWO))))
    assert len(lines) == 2 * 2 * N
    assert [float(line["score"]) for line in lines[2 * N : 3 * N]] == HIGH
    assert lines[0]["kind"] == "fall"
