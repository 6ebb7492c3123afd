"""A sweep from its plan to its table, begun, gone on with or joined."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import yaml
from optuna.study import Study

from rlnsp.atomic import written_whole
from rlnsp.settings import ConfigError
from rlnsp.sweep import slots, table
from rlnsp.sweep import study as queue
from rlnsp.sweep.outcome import Outcome, outcome
from rlnsp.sweep.plan import Plan
from rlnsp.sweep.workers import Workers

RECORD = "sweep.yaml"


class Sweep:
    """One sweep and its folder."""

    def __init__(self, plan: Plan, folder: Path, say: Callable[[str], None]) -> None:
        self.plan, self.folder, self.say = plan, folder, say
        optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # what happens is told of by ``say``

    def run(self, jobs: int) -> int:
        """Begin or go on, until all is done, and write the table.

        Returns:
            0, or 1 if a trial failed.

        Raises:
            ConfigError: the folder is another sweep's or something else's, or in use.
        """
        environments = slots.environments(jobs)
        self._check_folder()
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._alone():
            storage = queue.open_storage(self.plan.sweep, self.folder)
            study = queue.begin(self.plan, storage, self.name)
            self._write(RECORD, yaml.safe_dump(self.plan.to_dict()["sweep"], sort_keys=False))
            try:
                self._work(environments)
            finally:
                found = self.write(study)
        return self._end(found)

    def work(self, jobs: int) -> int:
        """Take a share of what another process began; the table is that process's.

        Raises:
            ConfigError: there is no such sweep.
        """
        environments = slots.environments(jobs)
        if self.plan.sweep.storage in {None, "journal"} and not (self.folder / RECORD).is_file():
            raise ConfigError(
                f"--worker: {self.folder} is no sweep's folder; start the sweep first, by the same command "
                "without --worker, or name its folder by --output"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._work(environments)
        return 0

    @property
    def name(self) -> str:
        """Of the study: the folder's, since of one database many sweeps may be."""
        return self.folder.name

    def write(self, study: Study) -> Outcome:
        """Write what is known by now."""
        found = outcome(self.plan, study)
        self._write("sweep.md", f"# {self.name}\n\n{table.markdown(found)}")
        self._write("sweep.csv", table.csv_of(found))
        self._write("summary.json", json.dumps(table.to_json(found), indent=2) + "\n")
        return found

    def _work(self, environments: list[dict[str, str]]) -> None:
        def open_study() -> Study:
            return queue.join(self.plan, queue.open_storage(self.plan.sweep, self.folder), self.name)

        Workers(self.plan, self.folder, environments, open_study).work(self.say)

    def _end(self, found: Outcome) -> int:
        self.say(table.markdown(found))
        self.say(f"sweep folder: {self.folder}")
        for name, error in found.errors.items():
            self.say(f"failed: {name}: {error}")
        return 1 if found.errors else 0

    def _check_folder(self) -> None:
        if self.folder.is_file() or (
            self.folder.is_dir() and any(self.folder.iterdir()) and not (self.folder / "study.lock").is_file()
        ):
            raise ConfigError(
                f"--output {self.folder}: exists and is no sweep's folder; choose another, or remove it"
            )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / "study.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(
                    f"{self.folder}: this sweep is being run by another process; join it by --worker, or wait"
                ) from error
            yield

    def _write(self, name: str, text: str) -> None:
        with written_whole(self.folder / name) as aside:
            aside.write_text(text, encoding="utf-8")
