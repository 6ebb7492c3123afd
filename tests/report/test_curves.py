import re
from pathlib import Path

import pytest

from rlnsp.report.curves import curves
from rlnsp.report.runs import ReportedRun


def run(lines):
    return ReportedRun(
        name="one",
        path=Path(),
        settings={"rewards.mine.weight": 1.0},
        environment={},
        summary={},
        iterations=lines,
        evaluations=[],
    )


def line(iteration, **more):
    return {"iteration": iteration, "reward": 0.1 * iteration, "seconds": {"rollout": 1.0}, **more}


@pytest.mark.parametrize(("error", "bands"), [(0.05, 1), (None, 0)])
def test_the_reward_has_a_band_where_its_error_is_known(error, bands):
    (chart,) = curves([run([line(step, reward_error=error) for step in range(1, 6)])]).reward
    assert len(re.findall("fill-opacity: 0.18", chart.svg)) == bands
    assert "0.1 at 1 to 0.5 at 5" in chart.svg


def test_what_only_one_run_logs_is_drawn_and_what_nobody_knows_is_not():
    runs = [
        run([line(1, ratio=1.0), line(2, ratio=1.0)]),
        run([line(1, velocity_change=0.5, grad_norm=None)]),
    ]
    drawn = curves(runs)
    assert [chart.name for chart in drawn.diagnostics] == ["ratio"]
    assert [chart.name for chart in drawn.others] == ["velocity_change"]
    assert drawn.heldout == []


def test_several_rewards_are_drawn_one_by_one_and_one_is_not_drawn_twice():
    two = {"reward/mine": 0.1, "reward/yours": 0.2}
    assert [chart.name for chart in curves([run([line(1, **two)])]).others] == list(two)
    assert curves([run([line(1, **{"reward/mine": 0.1})])]).others == []
