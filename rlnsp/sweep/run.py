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
from rlnsp.evaluate import DISTANCE, LOWER_IS_BETTER
from rlnsp.opening import is_run
from rlnsp.report.sweeps import SweepPage, write_sweep_report
from rlnsp.settings import ConfigError
from rlnsp.sweep import estimate, slots, table
from rlnsp.sweep import study as queue
from rlnsp.sweep.importance import Importance, importance
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
            self._write(RECORD, yaml.safe_dump(self.plan.content["sweep"], sort_keys=False))
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

    def estimate(self, jobs: int) -> list[str]:
        """The cells, and how long all will take; nothing is written.

        Raises:
            ConfigError: a short run, by which it is measured, failed.
        """
        cell = self.plan.samples[0]
        run = self.plan.run(cell, self.plan.sweep.seeds[0])
        measured = estimate.calibrate(run, slots.environments(jobs)[0])
        return estimate.described(self.plan, jobs, measured)

    @property
    def name(self) -> str:
        """Of the study: the folder's, since of one database many sweeps may be."""
        return self.folder.name

    def write(self, study: Study) -> Outcome:
        """Write what is known by now."""
        found = outcome(self.plan, study)
        matters = importance(self.plan.sweep, found, study)
        self._write("sweep.md", f"# {self.name}\n\n{table.markdown(found, matters)}")
        self._write("sweep.csv", table.csv_of(found))
        self._write("summary.json", json.dumps(table.to_json(found, matters), indent=2) + "\n")
        write_sweep_report(self._page(found, matters), self.folder / "report.html")
        return found

    def _page(self, found: Outcome, matters: Importance) -> SweepPage:
        return SweepPage(
            title=self.name,
            head=table.HEAD,
            rows=table.rows(found),
            reads=[cell.reads() for cell in found.cells],
            how_to_read=table.plain(table.how_to_read(found)),
            conclusions=[table.plain(line) for line in table.conclusions(found)],
            importance=matters.shares,
            about_importance=matters.said,
            runs={
                cell.name: [
                    path for seed in cell.results if is_run(path := self.run_folder(cell.folder, seed))
                ]
                for cell in found.cells
            },
            measures=[found.metric, *([DISTANCE] if found.metric != DISTANCE else [])],
            lower_is_better=found.metric in LOWER_IS_BETTER,
        )

    def run_folder(self, cell: str, seed: int) -> Path:
        """Of a cell's folder name and a seed."""
        return self.folder / "runs" / f"{cell}-seed{seed}"

    def _work(self, environments: list[dict[str, str]]) -> None:
        def open_study() -> Study:
            return queue.join(self.plan, queue.open_storage(self.plan.sweep, self.folder), self.name)

        Workers(self.plan, self.run_folder, environments, open_study).work(self.say)

    def _end(self, found: Outcome) -> int:
        self.say((self.folder / "sweep.md").read_text(encoding="utf-8"))
        self.say(f"report: {self.folder / 'report.html'}")
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
