"""What is to do, what is being done and what was found, in an Optuna study that workers share.

A trial of the study is one cell at one seed.  Of a grid all are queued at the start; Optuna's own GridSampler
gives idle workers what another is still running.  Where a sampler draws the cells, a trial that it draws has
the first seed and queues the others.
"""

from __future__ import annotations

import json
import os
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from rlnsp.report.runs import flat
from rlnsp.settings import ConfigError
from rlnsp.sweep import design
from rlnsp.sweep.design import Cell, Range, SweepConfig
from rlnsp.sweep.plan import Plan

NAME = "sweep"
PLAN = "plan"
"""The study's attribute; the others are its trials'."""
SEED, CELL, FACTORS = "seed", "cell", "factors"
DRAWN, WORKER, ATTEMPT, RESULT, ERROR = "drawn", "worker", "attempt", "result", "error"
MOST_ATTEMPTS = 5
"""Of a trial whose worker dies each time: it may be what kills it."""
SQLITE_WAIT_S = 120
GROWS = ("seeds", "budget", "baseline", "heartbeat_s", "needs")
"""What a sweep that was begun may still change."""
ALIVE = (TrialState.WAITING, TrialState.RUNNING)
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def open_storage(sweep: SweepConfig, folder: Path) -> BaseStorage:
    """The storage that the sweep names.

    Raises:
        ConfigError: it cannot be reached.
    """
    if sweep.storage == "journal":
        return JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    url = sweep.storage or f"sqlite:///{(folder / 'study.db').resolve()}"
    wait = {"connect_args": {"timeout": SQLITE_WAIT_S}} if url.startswith("sqlite") else {}
    try:
        with _experimental():
            return RDBStorage(
                url,
                engine_kwargs=wait,
                heartbeat_interval=sweep.heartbeat_s,
                grace_period=3 * sweep.heartbeat_s,
                heartbeat_stale_trial_callback=_requeue,
            )
    except (SQLAlchemyError, ImportError, ValueError) as error:
        raise ConfigError(
            f"storage: cannot be opened ({' '.join(str(error).split())}); give the URL of a database that is "
            "there, such as postgresql://host/name, with its driver installed, or leave it out for SQLite"
        ) from error


def begin(plan: Plan, storage: BaseStorage, name: str) -> Study:
    """The sweep's study, new or gone on with, with all that is to do in its queue.

    Raises:
        ConfigError: there is one of that name with other settings.
    """
    direction = "minimize" if plan.lower_is_better else "maximize"
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=_sampler(plan.sweep),
        pruner=_pruner(plan),
        direction=direction,
        load_if_exists=True,
    )
    asked = plan.content
    known = study.user_attrs.get(PLAN)
    if known is not None:
        _refuse_others(json.loads(known), asked, name)
    study.set_user_attr(PLAN, json.dumps(asked))
    fill_queue(plan, study)
    return study


def join(plan: Plan, storage: BaseStorage, name: str) -> Study:
    """The study that another process began; of these any number may be open.

    Raises:
        ConfigError: there is none, or it is of another sweep.
    """
    try:
        study = optuna.load_study(
            study_name=name, storage=storage, sampler=_sampler(plan.sweep), pruner=_pruner(plan)
        )
    except KeyError as error:
        raise ConfigError(
            f"--worker: the storage has no sweep {name!r} yet; start it first, by the same command without "
            "--worker"
        ) from error
    _refuse_others(json.loads(study.user_attrs.get(PLAN, "{}")), plan.content, name)
    return study


def fill_queue(plan: Plan, study: Study) -> None:
    """Queue what is neither done nor being done, what failed before included.

    Of a sweep that draws its cells that is the baseline that it names, and what was drawn before.
    """
    trials = study.get_trials(deepcopy=False)
    there = {key(trial) for trial in trials if trial.state in (*ALIVE, *ENDED)}
    cells = {cell.name: cell for cell in plan.cells}
    if plan.sweep.budget is not None:
        named = [cell for cell in design.nameable(plan.sweep) if cell.name == plan.sweep.baseline]
        drawn = [plan.cell_of(factors_of(trial)) for trial in trials if CELL in trial.user_attrs]
        cells = {cell.name: cell for cell in [*named, *drawn]}
    for cell in cells.values():
        for seed in plan.sweep.seeds:
            if (cell.name, seed) not in there:
                queue(plan, study, cell, seed)


def queue(plan: Plan, study: Study, cell: Cell, seed: int) -> None:
    """Put a trial into the queue."""
    params = {name: _choice(plan.sweep, name, value) for name, value in cell.factors.items()}
    factors = json.dumps(cell.factors)
    study.enqueue_trial(params, user_attrs={SEED: seed, CELL: cell.name, FACTORS: factors})


def take(plan: Plan, study: Study, trial: Trial) -> tuple[Cell, int] | None:
    """What a trial is to be: its cell and seed.  None: nothing that is not done, or being done, already."""
    drawn = SEED not in trial.user_attrs
    if drawn and (plan.sweep.budget is None or _rank(study, trial.number) >= plan.sweep.budget):
        return None
    trial.set_user_attr(WORKER, this_worker())
    cell = _suggested(plan.sweep, trial)
    if drawn:
        trial.set_user_attr(DRAWN, True)
        there = {key(one) for one in study.get_trials(deepcopy=False)}
        first, *others = plan.sweep.seeds
        if (cell.name, first) in there:
            return None  # drawn before
        trial.set_user_attr(SEED, first)
        trial.set_user_attr(FACTORS, json.dumps(cell.factors))
        trial.set_user_attr(CELL, cell.name)
        for seed in others:
            queue(plan, study, cell, seed)
    return cell, int(trial.user_attrs[SEED])


def unfinished(plan: Plan, study: Study) -> tuple[bool, bool]:
    """Whether something waits to be taken, and whether something is being done."""
    trials = study.get_trials(deepcopy=False)
    waiting = any(trial.state == TrialState.WAITING for trial in trials)
    running = any(trial.state == TrialState.RUNNING for trial in trials)
    if plan.sweep.budget is not None:
        waiting |= _rank(study, len(trials)) < plan.sweep.budget
    return waiting, running


def release_dead(study: Study) -> list[str]:
    """Queue again what workers had that are no more: by the heartbeat, or of this machine by process id.

    Returns:
        The workers of this machine that are gone.
    """
    with _experimental():
        optuna.storages.fail_stale_trials(study)
    gone = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        worker = trial.user_attrs.get(WORKER)
        if worker is None or _may_live(worker):
            continue
        try:
            study.tell(trial.number, state=TrialState.FAIL)
        except (ValueError, RuntimeError):
            continue  # another worker was faster
        gone.append(worker)
        _requeue(study, trial)
    return gone


def give_back(study: Study, trial: Trial) -> None:
    """Queue again a trial that was stopped on purpose."""
    study.enqueue_trial(trial.params, user_attrs=_what(trial))


def key(trial: FrozenTrial) -> tuple[str, int]:
    """The cell and the seed; ('', -1) of a trial that has none."""
    return trial.user_attrs.get(CELL, ""), trial.user_attrs.get(SEED, -1)


def this_worker() -> str:
    """The machine and the process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _may_live(worker: str) -> bool:
    host, _, pid = worker.rpartition(":")
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _requeue(study: Study, trial: FrozenTrial) -> None:
    """What becomes of a dead worker's trial."""
    attempt = trial.user_attrs.get(ATTEMPT, 1) + 1
    if attempt > MOST_ATTEMPTS or CELL not in trial.user_attrs:
        return
    params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    study.enqueue_trial(params, user_attrs={**_what(trial), ATTEMPT: attempt})


def _what(trial: Trial | FrozenTrial) -> dict[str, Any]:
    return {name: trial.user_attrs[name] for name in (SEED, CELL, FACTORS)}


def _rank(study: Study, number: int) -> int:
    """How many cells were drawn before the trial of that number."""
    earlier = [trial for trial in study.get_trials(deepcopy=False) if trial.number < number]
    return sum(
        DRAWN in trial.user_attrs or (trial.state == TrialState.RUNNING and SEED not in trial.user_attrs)
        for trial in earlier
    )


def _suggested(sweep: SweepConfig, trial: Trial) -> Cell:
    arm = trial.suggest_categorical("arm", list(sweep.arms)) if sweep.arms else None
    values: dict[str, Any] = {}
    for name, axis in sweep.parsed_axes.items():
        if isinstance(axis, Range):
            whole = isinstance(axis.low, int) and isinstance(axis.high, int)
            draw = trial.suggest_int if whole else trial.suggest_float
            values[name] = draw(name, axis.low, axis.high, log=axis.log)  # type: ignore[arg-type]
        else:
            chosen = trial.suggest_categorical(name, [_plain(value) for value in axis])
            values[name] = next(value for value in axis if _plain(value) == chosen)
    return design.cell(sweep, arm, values)


def factors_of(trial: FrozenTrial) -> dict[str, Any]:
    """What its cell is by the sweep's own words."""
    return json.loads(trial.user_attrs[FACTORS])


def _choice(sweep: SweepConfig, name: str, value: Any) -> Any:
    return value if isinstance(sweep.parsed_axes.get(name), Range) else _plain(value)


def _plain(value: Any) -> None | bool | int | float | str:
    """A value as Optuna keeps it: what is no scalar as JSON."""
    return value if isinstance(value, None | bool | int | float | str) else json.dumps(value)


def _sampler(sweep: SweepConfig) -> BaseSampler:
    if sweep.sampler == "tpe":
        return TPESampler(seed=None, constant_liar=True)  # of trials under way the worst is supposed
    return RandomSampler()


def _pruner(plan: Plan) -> BasePruner:
    match plan.sweep.pruner:
        case "none":
            return NopPruner()
        case "median":
            return MedianPruner()
        case "hyperband":
            cell = plan.samples[0]
            run = plan.run(cell, plan.sweep.seeds[0])
            return HyperbandPruner(min_resource=run.evaluation.every, max_resource=run.trainer.num_iterations)


def _refuse_others(known: Mapping[str, Any], asked: Mapping[str, Any], name: str) -> None:
    """What was begun with other settings is another sweep."""
    before, now = (flat({k: v for k, v in one["sweep"].items() if k not in GROWS}) for one in (known, asked))
    cells = (flat(one["cells"]) for one in (known, asked))
    for old, new in ((before, now), cells):
        different = [place for place in {**old, **new} if old.get(place) != new.get(place)]
        if different:
            place = different[0]
            raise ConfigError(
                f"sweep {name}: was begun with {place} {old.get(place)!r}, and is now given "
                f"{new.get(place)!r} ({len(different)} in all differ); give the sweep a folder of its own by "
                "--output, or go on with its own settings"
            )


@contextmanager
def _experimental() -> Iterator[None]:
    """The heartbeat is called experimental; what it is used for here is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def results(study: Study) -> Sequence[FrozenTrial]:
    """Every trial with a cell, the newest of each cell and seed."""
    latest: dict[tuple[str, int], FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        known = latest.get(key(trial))
        better = known is None or known.state not in ENDED
        if CELL in trial.user_attrs and better:
            latest[key(trial)] = trial
    return list(latest.values())
