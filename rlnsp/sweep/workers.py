"""Jobs of one process that take trials until nothing is left to do."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import Trial

from rlnsp.interruption import Interruption
from rlnsp.settings import ConfigError
from rlnsp.sweep import study as queue
from rlnsp.sweep import trial as trials
from rlnsp.sweep.plan import Plan
from rlnsp.sweep.trial import TrialFailed, TrialStopped

WAIT_S = 1.0
"""Before looking again whether there is something to do, or to say."""


class _Nothing(Exception):
    """A trial that is none: another worker was faster."""


class Workers:
    """A thread a job; each has its own handle of the study, since Optuna's are not to be shared."""

    def __init__(
        self,
        plan: Plan,
        run_folder: Callable[[str, int], Path],
        environments: list[dict[str, str]],
        open_study: Callable[[], Study],
    ) -> None:
        self.plan, self.run_folder = plan, run_folder
        self.environments, self.open_study = environments, open_study
        self.problem: BaseException | None = None
        self._stopping = threading.Event()

    def work(self, say: Callable[[str], None]) -> None:
        """Until nothing is left; an interruption stops the running trials, which save.

        Raises:
            ConfigError: a run folder is in the way.
        """
        self.say = say
        threads = [
            threading.Thread(target=self._job, args=(environment,), name=f"job {number}")
            for number, environment in enumerate(self.environments)
        ]
        for thread in threads:
            thread.start()
        try:
            with Interruption():
                for thread in threads:
                    while thread.is_alive():
                        thread.join(WAIT_S)
        except BaseException:
            say("stopping: the running trials save; the same command goes on with them")
            raise
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()
        if self.problem:
            raise self.problem

    def _job(self, environment: dict[str, str]) -> None:
        try:
            study = self.open_study()
            waited = False
            while not self._stopping.is_set():
                for worker in queue.release_dead(study):
                    self.say(f"{worker} is gone; its trial is taken up again")
                waiting, running = queue.unfinished(self.plan, study)
                if waiting:
                    self._take_one(study, environment)
                elif not running:
                    return
                else:
                    if not waited:
                        self.say("nothing is left to take; waiting for what others are doing")
                    waited = True
                    self._stopping.wait(WAIT_S)
        except BaseException as error:
            self.problem = error
            self._stopping.set()

    def _take_one(self, study: Study, environment: dict[str, str]) -> None:
        """Whatever Optuna gives, to its end."""
        numbers: list[int] = []

        def objective(trial: Trial) -> float:
            numbers.append(trial.number)
            return self._objective(study, trial, environment)

        try:
            study.optimize(objective, n_trials=1, catch=(TrialFailed, TrialStopped, _Nothing))
        except ConfigError:
            raise  # a ValueError, but not Optuna's
        except (UpdateFinishedTrialError, ValueError):
            if not numbers or not study.get_trials(deepcopy=False)[numbers[0]].state.is_finished():
                raise
            # This machine was asleep, or out of reach, for longer than the heartbeat allows.
            self.say("a trial was queued again meanwhile, as if its worker had died; its run is kept")

    def _objective(self, study: Study, trial: Trial, environment: dict[str, str]) -> float:
        taken = queue.take(self.plan, study, trial)
        if taken is None:
            raise _Nothing
        cell, seed = taken
        name = f"{cell.name}, seed {seed}"
        self.say(f"begins: {name}")
        pruned = False

        def evaluated(iteration: int, mean: float) -> bool:
            nonlocal pruned
            trial.report(mean, iteration)
            pruned = trial.should_prune()
            return pruned

        folder = self.run_folder(cell.folder, seed)
        try:
            run = self.plan.run(cell, seed)
        except ConfigError as error:  # values that do not go together, which a sampler has drawn
            trial.set_user_attr(queue.ERROR, str(error))
            self.say(f"failed: {name}: {error}")
            raise TrialFailed(str(error)) from error
        try:
            result = trials.train(
                run,
                folder,
                self.plan.sweep.metric,
                environment,
                self._stopping.is_set,
                evaluated,
            )
        except TrialStopped:
            queue.give_back(study, trial)
            raise
        except (TrialFailed, ConfigError) as error:
            if pruned:
                self.say(f"given up: {name}: worse than others at the same iteration")
                raise optuna.TrialPruned from error
            trial.set_user_attr(queue.ERROR, str(error))
            self.say(f"failed: {name}: {error}")
            raise
        found = result.mean(self.plan.sweep.metric)
        if found != found:
            message = f"{folder}: {self.plan.sweep.metric} could be measured on no scene"
            trial.set_user_attr(queue.ERROR, message)
            raise TrialFailed(message)
        trial.set_user_attr(queue.RESULT, json.dumps(result.to_json()))
        self.say(f"done: {name}: {self.plan.sweep.metric} {found:.3f}, {result.wall_s / 60:.1f} min")
        return found
