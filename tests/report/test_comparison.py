from dataclasses import replace

import numpy as np
import pytest

from rlnsp.evaluate import Evaluation
from rlnsp.evaluations import KeptEvaluation
from rlnsp.report.comparison import on_shared_scenes, rows, unlike
from rlnsp.report.runs import ReportedRun


def kept(when, scores, **how):
    return KeptEvaluation(
        when=when,
        iteration=0 if when == "before" else 10,
        contexts=[f"context {scene}" for scene in scores],
        evaluation=Evaluation(
            scene_ids=list(scores),
            scores={"mine": list(scores.values())},
            how={"seeds": [0], **how},
            bootstrap=500,
        ),
        clips=[],
    )


def run(name, *evaluations, weight=1.0):
    return ReportedRun(
        name=name,
        path=None,  # pyright: ignore[reportArgumentType]
        settings={"rewards.mine.weight": weight},
        environment={},
        summary={},
        iterations=[],
        evaluations=evaluations,
    )


BEFORE = {f"s{i}": float(i % 2) for i in range(20)}
RAISED = {scene: value + 1 for scene, value in BEFORE.items()}
RAISED_TWICE = {scene: value + 2 for scene, value in BEFORE.items()}


def test_differences_are_paired_by_scene_and_to_the_first_run():
    first = run("one", kept("before", BEFORE), kept("after", RAISED))
    second = run("two", kept("before", BEFORE), kept("after", RAISED_TWICE))
    one, two = rows([first, second])
    for change, expected in ((one.change, 1), (two.change, 2), (two.less_first, 1)):
        assert change is not None
        assert (change.mean, change.low, change.high) == (expected, expected, expected)
        assert change.n == 20
    assert one.less_first is None
    assert one.before is not None
    assert one.before.mean == 0.5
    assert one.before.low < 0.5 < one.before.high


def test_only_scenes_of_the_same_id_and_text_are_paired():
    one, other = kept("after", BEFORE), kept("after", RAISED)
    contexts = ["another text", *other.contexts[1:]]
    shared = on_shared_scenes(one, replace(other, contexts=contexts), "mine")
    assert shared is not None
    assert (shared.n, shared.mean) == (19, 1)
    few = kept("after", {"s3": 3.0, "elsewhere": 9.0})
    shared = on_shared_scenes(one, few, "mine")
    assert shared is not None
    assert (shared.n, shared.mean) == (1, 2)
    assert on_shared_scenes(one, kept("after", {"elsewhere": 9.0}), "mine") is None
    assert on_shared_scenes(one, other, "no such measure") is None


def test_a_scene_that_one_run_could_not_score_is_left_out_of_the_pairs():
    shared = on_shared_scenes(kept("after", {**BEFORE, "s0": np.nan}), kept("after", RAISED), "mine")
    assert shared is not None
    assert (shared.n, shared.mean) == (19, 1)


def test_a_measure_that_nobody_could_take_has_no_row():
    nothing = kept("before", {scene: np.nan for scene in BEFORE})
    assert rows([run("one", nothing)]) == []


@pytest.mark.parametrize(("weight", "lower"), [(1.0, False), (0.0, False), (-0.5, True)])
def test_of_a_reward_with_a_negative_weight_less_is_better(weight, lower):
    (row,) = rows([run("one", kept("before", BEFORE), weight=weight)])
    assert row.lower_is_better == lower
    assert row.after is None
    assert row.change is None


def test_runs_that_were_evaluated_otherwise_are_told_apart():
    first = run("one", kept("after", BEFORE, num_steps=8))
    assert unlike([first, run("two", kept("after", BEFORE, num_steps=8))]) == []
    assert unlike([first, run("two", kept("after", BEFORE, num_steps=4))]) == [
        "two: num_steps 4 instead of 8"
    ]
