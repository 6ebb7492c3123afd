"""Real signals, sent to this process while a run of it is in one phase or another."""

import os
import signal
from functools import partial

import pytest

from benchmarks.survival import digests
from rlnsp import checkpoint, evaluations, trainer
from rlnsp.interruption import Interrupted, Interruption
from rlnsp.optimisation import Optimisation
from rlnsp.rundir import RunFolder
from rlnsp.settings import EvaluationConfig
from rlnsp.testing import ToyPolicy
from rlnsp.trainer import Run, train
from tests.toy_runs import metrics_of, numbers, summary_of, toy_config


def small(toy, **settings):
    evaluation = EvaluationConfig(num_scenes=4, every=2, bootstrap=10, keep_clips=1)
    return toy(evaluation=evaluation, group_size=3, trackers=[], algorithm="ddpo", ema_decay=0.5, **settings)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    assert train(small(partial(toy_config, folder)), folder / "run") == 0
    return folder / "run"


PHASES = {
    "rollout": (ToyPolicy, "velocity"),
    "scoring": (trainer.Judging, "scores"),
    "optimise": (Optimisation, "__call__"),
    "log": (RunFolder, "log"),
    "evaluation": (trainer, "evaluate"),
    "writing an evaluation": (evaluations, "written_whole"),
    "save": (checkpoint, "_fill"),
}


@pytest.mark.parametrize(
    ("phase", "when"),
    [
        ("rollout", "before"),
        ("scoring", "before"),
        ("optimise", "before"),
        ("optimise", "after"),
        ("log", "after"),
        ("evaluation", "before"),
        ("writing an evaluation", "after"),
        ("save", "before"),
    ],
)
def test_a_signal_in_any_phase_saves_and_the_run_goes_on_to_the_same_bits(
    phase, when, toy, straight, tmp_path, monkeypatch, capsys
):
    """By SIGINT or SIGTERM, and each sent twice, as by a user who is in a hurry."""
    number = signal.SIGINT if when == "before" else signal.SIGTERM
    place, name = PHASES[phase]
    act, sent = getattr(place, name), []

    def send():
        sent.append(number)
        os.kill(os.getpid(), number)

    def interrupted(*args, **settings):
        third = not sent and summary_under_way(tmp_path / "run") >= 2
        if third and when == "before":
            send()
        done = act(*args, **settings)
        if third and when == "after":
            send()
        return done

    save = Run._save

    def save_under_fire(run):
        if sent:
            send()
        save(run)

    monkeypatch.setattr(place, name, interrupted)
    monkeypatch.setattr(Run, "_save", save_under_fire)
    run = tmp_path / "run"
    assert train(small(toy), run) == 128 + number
    assert len(sent) > 1
    assert f"interrupted and saved; go on by: rlnsp train --resume {run}" in capsys.readouterr().out.replace(
        "\n", " "
    )
    assert summary_of(run)["status"] == "interrupted"
    assert summary_of(run)["steps"] in (2, 3)
    assert not list(run.rglob("*.partial"))
    monkeypatch.undo()
    assert train(small(toy), run, resume=True) == 0
    assert digests(run, 4) == digests(straight, 4)
    assert numbers(metrics_of(run)) == numbers(metrics_of(straight))
    assert summary_of(run)["heldout"] == summary_of(straight)["heldout"]
    kept = [(one.when, one.iteration) for one in evaluations.read(run)]
    assert kept == [("before", 0), ("step-2", 2), ("after", 4)]


def summary_under_way(run):
    """Iterations that have been logged."""
    return sum("reward" in line for line in metrics_of(run)) if (run / "metrics.jsonl").is_file() else 0


def held_twice(interruption, reached):
    with interruption.held():
        with interruption.held():
            os.kill(os.getpid(), signal.SIGTERM)
            reached.append("inner")
        reached.append("outer")


def test_a_signal_waits_for_the_last_held_block_and_is_passed_over_where_ignored():
    reached = []
    with Interruption() as interruption:
        with pytest.raises(Interrupted) as caught:
            held_twice(interruption, reached)
        assert caught.value.exit_code == 143
        with interruption.ignored():
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("ignored")
        with pytest.raises(Interrupted) as caught:
            os.kill(os.getpid(), signal.SIGINT)
        assert caught.value.exit_code == 130
    assert reached == ["inner", "outer", "ignored"]


def test_what_is_done_about_a_signal_may_hold_others_back_without_being_cut_short():
    with Interruption() as interruption:
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)
        try:
            with interruption.ignored(), interruption.held():
                pass
        except Interrupted:
            pytest.fail("it was cut short")
