"""Who takes what, without a run: training is a function that looks up what was asked for."""

import os
import signal
import threading
import time
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from rlnsp.config import ConfigError
from rlnsp.interruption import Interrupted
from rlnsp.sweep import inline
from rlnsp.sweep import study as queue
from rlnsp.sweep import trial as trials
from rlnsp.sweep.plan import Plan
from rlnsp.sweep.run import Sweep
from rlnsp.sweep.trial import TrialStopped
from tests.sweep.toys import GRID, study_of

ASKED_BY_HAND = pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed:UserWarning")
"""Of trials that a test takes as a worker would that then dies; others are Optuna's to begin."""


def test_every_cell_is_trained_once_a_seed_and_never_again(training, begin):
    said = []
    for _ in range(2):
        sweep, said = begin(*GRID)
        assert sweep.run(jobs=1) == 0
        assert training.asked == {(size, seed): 1 for size in (2, 4) for seed in (0, 1)}
    assert "| group_size=4 | 0.500 | 0.540 [" in "\n".join(said)
    assert not any(line.startswith("begins") for line in said)


def test_more_seeds_later_train_what_is_new(training, begin):
    begin(*GRID)[0].run(1)
    assert begin("trainer.group_size=2,4", "seeds=3")[0].run(1) == 0
    assert set(training.asked.values()) == {1}
    assert len(training.asked) == 6


def test_a_folder_of_other_settings_is_refused(training, begin):
    begin(*GRID)[0].run(1)
    with pytest.raises(
        ConfigError, match=r"was begun with axes.trainer.group_size \[2, 4\], and is now given"
    ):
        begin("trainer.group_size=2,6", "seeds=2")[0].run(1)
    with pytest.raises(ConfigError, match=r"trainer.learning_rate"):
        begin("trainer.learning_rate=0.5", *GRID)[0].run(1)
    assert sum(training.asked.values()) == 4


def test_a_base_config_that_has_changed_since_is_refused(training, begin, tmp_path):
    sweep, _ = begin(*GRID)
    sweep.run(1)
    path = tmp_path / "toy.yaml"
    path.write_text(path.read_text().replace("learning_rate: 0.01", "learning_rate: 0.02"))
    again = Sweep(Plan(sweep.plan.sweep), sweep.folder, say=print)
    with pytest.raises(ConfigError, match=r"group_size=2.trainer.learning_rate 0.01, and is now given 0.02"):
        again.run(1)


def test_a_folder_that_holds_something_else_is_refused(training, begin, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("three years")
    with pytest.raises(ConfigError, match="exists and is no sweep's folder"):
        begin(*GRID)[0].run(1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_a_second_command_on_a_running_sweep_is_told_to_join(training, begin):
    sweep, _ = begin(*GRID)
    sweep.folder.mkdir()
    with sweep._alone(), pytest.raises(ConfigError, match="join it by --worker"):
        begin(*GRID)[0].run(1)


def test_a_worker_without_a_sweep_is_refused_and_writes_nothing(begin):
    sweep, _ = begin(*GRID)
    with pytest.raises(ConfigError, match="is no sweep's folder; start the sweep first"):
        sweep.work(1)
    assert not sweep.folder.exists()


def test_a_failed_trial_is_named_leaves_the_others_and_is_tried_by_the_next_command(training, begin):
    training.failing.add((4, 1))
    sweep, said = begin(*GRID)
    assert sweep.run(1) == 1
    assert sum(training.asked.values()) == 4
    assert any("failed: group_size=4, seed 1" in line and "broken on purpose" in line for line in said)
    assert "Not in the figures: *group_size=4* (seed 1: failed)." in (sweep.folder / "sweep.md").read_text()
    training.failing.clear()
    assert begin(*GRID)[0].run(1) == 0
    assert training.asked == {(2, 0): 1, (2, 1): 1, (4, 0): 1, (4, 1): 2}


def test_jobs_share_the_work_each_on_cores_of_its_own(training, begin, monkeypatch):
    from rlnsp.sweep import slots

    monkeypatch.setattr(slots, "_cores", lambda: [0, 1, 2, 3, 4])
    met = threading.Barrier(2, timeout=20)
    training.score = lambda run: met.wait() * 0 + 0.5  # gets past only if two are at it at once
    sweep, _ = begin(*GRID)
    assert sweep.run(jobs=2) == 0
    assert set(training.asked.values()) == {1}
    assert sorted({one["RLNSP_SWEEP_CORES"] for one in training.environments}) == ["0,1", "2,3"]
    assert {one["OMP_NUM_THREADS"] for one in training.environments} == {"2"}
    with pytest.raises(ConfigError, match="--jobs 6: there are 5 cores"):
        sweep.run(jobs=6)


def test_gpus_are_given_out_one_a_job(monkeypatch):
    from rlnsp.sweep import slots

    monkeypatch.setattr(slots.torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert slots.environments(2) == [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"}]
    with pytest.raises(ConfigError, match="there are 2 GPUs, and a job takes one"):
        slots.environments(3)


@ASKED_BY_HAND
@pytest.mark.parametrize("storage", ["null", "journal"])
def test_a_dead_workers_trial_is_taken_up_again(training, begin, storage, monkeypatch):
    sweep, said = begin(f"storage={storage}", *GRID)
    sweep.folder.mkdir()
    study = queue.begin(sweep.plan, queue.open_storage(sweep.plan.sweep, sweep.folder), sweep.name)
    (sweep.folder / "study.lock").touch()
    gone = f"{queue.socket.gethostname()}:{2**22 + 1}"  # above the largest process id
    with monkeypatch.context() as patch:
        patch.setattr(queue, "this_worker", lambda: gone)
        taken = queue.take(sweep.plan, study, study.ask())
    assert taken is not None
    assert sweep.run(1) == 0
    assert f"{gone} is gone; its trial is taken up again" in said
    assert training.asked == {(size, seed): 1 for size in (2, 4) for seed in (0, 1)}


@ASKED_BY_HAND
def test_a_worker_of_another_machine_is_given_up_by_its_heartbeat(training, begin, monkeypatch):
    sweep, _ = begin("storage=null", *GRID)
    sweep.folder.mkdir()
    (sweep.folder / "study.lock").touch()
    study = queue.begin(sweep.plan, queue.open_storage(sweep.plan.sweep, sweep.folder), sweep.name)
    with monkeypatch.context() as patch:
        patch.setattr(queue, "this_worker", lambda: "elsewhere:1")
        trial = study.ask()
        queue.take(sweep.plan, study, trial)
    heart: Any = study._storage
    heart.record_heartbeat(trial._trial_id)  # as Optuna's own thread does, once
    assert sweep.run(1) == 0
    assert training.asked == {(size, seed): 1 for size in (2, 4) for seed in (0, 1)}
    assert study.trials[trial.number].state == TrialState.FAIL


def test_a_trial_whose_worker_dies_each_time_is_left_alone_at_last(training, begin, monkeypatch):
    sweep, _ = begin("trainer.group_size=2", "seeds=1")
    sweep.folder.mkdir()
    study = queue.begin(sweep.plan, queue.open_storage(sweep.plan.sweep, sweep.folder), sweep.name)
    monkeypatch.setattr(queue, "this_worker", lambda: f"{queue.socket.gethostname()}:{2**22 + 1}")
    for _ in range(queue.MOST_ATTEMPTS):
        assert queue.take(sweep.plan, study, study.ask()) is not None
        queue.release_dead(study)
    assert queue.unfinished(sweep.plan, study) == (False, False)


def test_a_live_worker_that_was_taken_for_dead_keeps_what_it_has(training, begin, monkeypatch):
    sweep, said = begin(*GRID)

    def given_away(run):
        if sum(training.asked.values()) == 1:  # while the first is trained
            queue.release_dead(study_of(sweep))
        return 0.5

    training.score = given_away
    monkeypatch.setattr(queue, "_may_live", lambda worker: sum(training.asked.values()) != 1)
    assert sweep.run(1) == 0
    assert any(line.startswith("a trial was queued again meanwhile") for line in said)
    assert training.asked == {
        (2, 0): 2,
        (2, 1): 1,
        (4, 0): 1,
        (4, 1): 1,
    }


def test_a_run_folder_that_is_in_the_way_stops_the_sweep(begin, monkeypatch):
    def refused(*args):
        raise ConfigError("runs/x: holds a run with other settings than this trial")

    monkeypatch.setattr(trials, "train", refused)
    with pytest.raises(ConfigError, match="holds a run with other settings"):
        begin(*GRID)[0].run(1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_running_trials_and_the_next_command_goes_on(
    training, begin, monkeypatch, number, code
):
    sweep, said = begin(*GRID)
    begun = []

    def under_way(run, folder, metric, environment, stop, evaluated):
        begun.append(folder)
        os.kill(os.getpid(), number)
        while not stop():
            time.sleep(0.01)
        raise TrialStopped

    with monkeypatch.context() as patch:
        patch.setattr(trials, "train", under_way)
        with pytest.raises(Interrupted) as caught:
            sweep.run(1)
    assert caught.value.exit_code == code
    assert len(begun) == 1  # and no other after it
    assert "stopping: the running trials save; the same command goes on with them" in said
    assert "to do" in (sweep.folder / "sweep.md").read_text()
    assert begin(*GRID)[0].run(1) == 0
    assert training.asked == {(size, seed): 1 for size in (2, 4) for seed in (0, 1)}


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_sampler_draws_as_many_cells_as_its_budget_each_at_every_seed(training, begin, sampler):
    words = (f"sampler={sampler}", "trainer.group_size=2,4,6,8,10", "seeds=0,7")
    sweep, _ = begin("budget=2", *words)
    assert sweep.run(1) == 0
    assert {count for count in training.asked.values()} == {1}
    sizes = {size for size, _ in training.asked}
    assert 1 <= len(sizes) <= 2  # a cell that is drawn twice is trained once
    assert set(training.asked) == {(size, seed) for size in sizes for seed in (0, 7)}
    more, _ = begin("budget=4", *words)
    assert more.run(1) == 0
    drawn = [trial for trial in study_of(more).trials if queue.DRAWN in trial.user_attrs]
    assert len(drawn) == 4


def test_a_baseline_that_is_named_is_trained_beside_what_is_drawn(training, begin):
    words = ("sampler=random", "trainer.group_size=2,4,6,8,10", "seeds=1", "budget=1")
    sweep, _ = begin(*words, "baseline=group_size=6")
    assert sweep.run(1) == 0
    assert (6, 0) in training.asked
    assert "group_size=6 (baseline)" in (sweep.folder / "sweep.md").read_text()


def test_values_that_do_not_go_together_fail_alone(training, begin):
    """Each of them is in a cell that is checked first, but not with the other."""
    words = (
        "sampler=random",
        "budget=8",
        "seeds=1",
        "trainer.minibatches=1,2",
        "trainer.scenes_per_iteration=2,1",
    )
    sweep, said = begin(*words)
    code = sweep.run(1)
    failed = [line for line in said if line.startswith("failed: minibatches=2, scenes_per_iteration=1")]
    assert bool(failed) == bool(code)
    assert all("trainer.minibatches must be at most" in line for line in failed)
    drawn = {
        (run.params["trainer.minibatches"], run.params["trainer.scenes_per_iteration"])
        for run in study_of(sweep).get_trials(states=(TrialState.COMPLETE,))
    }
    assert (2, 1) not in drawn
    assert drawn


def test_a_password_in_the_storages_url_is_kept_nowhere(begin):
    sweep, _ = begin('storage="postgresql://me:hunter2@nowhere.invalid/x"', *GRID)
    assert "hunter2" not in str(sweep.plan.content)
    with pytest.raises(ConfigError) as error:
        sweep.run(1)
    assert "hunter2" not in str(error.value)


def test_a_range_is_drawn_from(training, begin, tmp_path):
    (tmp_path / "drawn.yaml").write_text(
        f"config: {tmp_path}/toy.yaml\nmetric: bright\nsampler: random\nbudget: 4\nseeds: [0]\n"
        "axes:\n  trainer.learning_rate: {low: 1e-5, high: 1e-3, log: true}\n"
        "  trainer.group_size: {low: 2, high: 5}\n"
    )
    sweep, _ = begin()
    plan = Plan(inline.load(str(tmp_path / "drawn.yaml"), []))
    plan.check()
    drawn = Sweep(plan, sweep.folder, say=print)
    assert drawn.run(1) == 0
    params = [trial.params for trial in study_of(drawn).get_trials(states=(TrialState.COMPLETE,))]
    assert len(params) == 4
    assert all(1e-5 <= one["trainer.learning_rate"] <= 1e-3 for one in params)
    assert {type(one["trainer.group_size"]) for one in params} == {int}


def test_a_trial_worse_than_others_at_the_same_iteration_is_given_up(training, begin):
    sizes = [2, 3, 4, 5, 6, 7, 8]
    training.on_the_way = {size: {1: 0.8, 2: 0.9} for size in sizes} | {8: {1: 0.1, 2: 0.1}}
    sweep, said = begin(
        "pruner=median", f"trainer.group_size={','.join(map(str, sizes))}", "seeds=1", "evaluation.every=1"
    )
    assert sweep.run(1) == 0
    assert [line for line in said if line.startswith("given up")] == [
        "given up: group_size=8, seed 0: worse than others at the same iteration"
    ]
    assert "*group_size=8* (seed 0: pruned)" in (sweep.folder / "sweep.md").read_text()
    begin(
        "pruner=median", f"trainer.group_size={','.join(map(str, sizes))}", "seeds=1", "evaluation.every=1"
    )[0].run(1)
    assert training.asked[8, 0] == 1  # what was given up is not begun again


def test_hyperband_is_told_how_long_a_run_is(begin):
    sweep, _ = begin("pruner=hyperband", "evaluation.every=2", *GRID)
    pruner = queue._pruner(sweep.plan)
    assert isinstance(pruner, optuna.pruners.HyperbandPruner)
    assert (pruner._min_resource, pruner._max_resource) == (2, 4)


def test_a_run_that_could_be_measured_nowhere_has_failed(training, begin):
    training.score = lambda run: None
    sweep, _ = begin("seeds=1")
    assert sweep.run(1) == 1
    assert "could be measured on no scene" in (sweep.folder / "summary.json").read_text()


def test_a_database_that_is_not_there_is_refused(begin):
    for url, message in (
        ("postgresql://nowhere.invalid/x", "storage: cannot be opened"),
        ("nonsense", "URL"),
    ):
        sweep, _ = begin(f'storage="{url}"', *GRID)
        with pytest.raises(ConfigError, match=message):
            sweep.run(1)
