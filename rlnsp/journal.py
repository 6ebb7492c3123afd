"""What a run writes and shows on its way: one process does, for all."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from accelerate.tracking import GeneralTracker

from rlnsp import checkpoint, evaluations, trackers
from rlnsp.atomic import writing
from rlnsp.evaluate import Evaluation
from rlnsp.evaluations import KeptEvaluation
from rlnsp.progress import Display, Line, before_after_table
from rlnsp.remarks import alarms
from rlnsp.rundir import RunFolder
from rlnsp.settings import RunConfig
from rlnsp.summary import summarise
from rlnsp.trackers import NUM_CLIPS, Clip
from rlnsp.types import Scene

P = ParamSpec("P")


def _if_writing(
    method: Callable[Concatenate["Journal", P], None],
) -> Callable[Concatenate["Journal", P], None]:
    @wraps(method)
    def guarded(self: "Journal", *args: P.args, **kwargs: P.kwargs) -> None:
        if self.writes:
            method(self, *args, **kwargs)

    return guarded


class Journal:
    """Metrics, trackers, progress, evaluations and summary of a run; silent where it does not write."""

    def __init__(self, config: RunConfig, folder: RunFolder, metric: str, *, writes: bool) -> None:
        self.config, self.folder, self.metric, self.writes = config, folder, metric, writes
        self.trackers: list[GeneralTracker] = []

    @_if_writing
    def begin(self, finished: int) -> None:
        """Show that so many iterations are done; nothing is written yet."""
        self.display = Display(self.config.trainer.num_iterations, finished)

    @_if_writing
    def open(self, finished: int) -> None:
        """Take up the run folder, and forget what it has from after ``finished`` iterations."""
        self.folder.open(self.config, finished)
        with writing(self.folder.path):
            self.trackers = trackers.start(self.config.trainer.trackers, self.folder.path, finished)
        for kept in evaluations.read(self.folder.path)[-1:]:
            self.display.know(kept.evaluation, self.metric)

    @contextmanager
    def progress(self) -> Iterator[None]:
        """While open, a live bar, where there is a terminal."""
        if not self.writes:
            yield
            return
        with self.display:
            yield

    @_if_writing
    def say(self, text: str) -> None:
        """A line that stays."""
        self.display.say(text)

    @_if_writing
    def iterated(self, finished: int, metrics: Mapping[str, Any]) -> None:
        """An iteration's line."""
        self._log({"iteration": finished, **metrics})
        self.display.iterated(
            Line(
                finished=finished,
                reward=metrics["reward"],
                zero_variance=metrics.get("zero_variance_groups"),
                seconds=sum(metrics["seconds"].values()),
                samples=metrics["samples"],
            )
        )

    @_if_writing
    def evaluated(
        self,
        when: str,
        finished: int,
        scenes: list[Scene],
        evaluation: Evaluation,
        before: Mapping[str, Any] | None,
    ) -> None:
        """An evaluation, with its clips; ``before`` is the first one, where there was one."""
        means = {f"heldout/{name}": evaluation.interval(name).mean for name in evaluation.scores}
        self._log({"iteration": finished, **means})
        # The file last: it says that the evaluation is whole.
        kept = evaluations.write(self.folder.path, when, finished, scenes, evaluation)
        self._show(kept, evaluation)
        self.display.evaluated(when, evaluation, self.metric)
        for remark in alarms(evaluation, before, self.config.data_loss.alarm):
            self.display.say(remark)

    @_if_writing
    def prune(self, finished: int) -> None:
        """Keep the last checkpoints, and those of the best evaluations where that is asked for."""
        best = [kept.iteration for kept in self._best()]
        checkpoint.prune(self.folder.checkpoints, finished, self.config.trainer.keep_last, best)

    @_if_writing
    def summarise(
        self,
        status: str,
        finished: int,
        record: Mapping[str, Any],
        after: Evaluation | None = None,
        error: str | None = None,
    ) -> None:
        """Write ``summary.json``."""
        self.folder.write_summary(summarise(status, finished, record, self.metric, after, error))

    @_if_writing
    def conclude(self, before: Evaluation, after: Evaluation) -> None:
        """Show what the run came to."""
        self.display.console.print(before_after_table(before, after, list(after.scores)))
        for kept in self._best():
            place = self.folder.checkpoints / f"step-{kept.iteration}"
            self.display.say(f"best on {self.metric} after {kept.iteration} iterations: {place}")
        self.display.say(f"run folder: {self.folder.path}")

    @_if_writing
    def report(self) -> None:
        """Write ``report.html``, where it is asked for."""
        if self.config.trainer.report:
            from rlnsp.report import write_report  # brings matplotlib, which a run needs only now

            path = write_report([self.folder.path], self.folder.path / "report.html")
            self.display.say(f"report: {path}")

    def close(self) -> None:
        """Let the trackers finish."""
        for tracker in self.trackers:
            with suppress(OSError):
                tracker.finish()

    def _best(self) -> list[KeptEvaluation]:
        lowest = self.config.rewards[self.metric].weight < 0
        keep = self.config.trainer.keep_best
        return evaluations.best(self.folder.path, self.metric, lowest=lowest)[:keep] if keep else []

    def _show(self, kept: KeptEvaluation, evaluation: Evaluation) -> None:
        clips = {
            f"clips/{shown.scene_id}": Clip(
                file=self.folder.path / shown.file, frames=sample.frames, fps=sample.fps
            )
            for shown, sample in zip(kept.clips[:NUM_CLIPS], evaluation.samples, strict=False)
        }
        with writing(self.folder.path):
            for tracker in self.trackers if clips else []:
                trackers.show(tracker, clips, kept.iteration)

    def _log(self, metrics: Mapping[str, Any]) -> None:
        self.folder.log(metrics)
        numbers = {name: value for name, value in metrics.items() if isinstance(value, float)}
        with writing(self.folder.path):
            for tracker in self.trackers:
                tracker.log(numbers, step=metrics["iteration"])
