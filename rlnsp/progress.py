"""What a run shows while it works: a live bar on a terminal, plain lines elsewhere, a table at the end."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from rlnsp.evaluate import LOWER_IS_BETTER, Evaluation, Interval, paired_difference


@dataclass(frozen=True, kw_only=True)
class Line:
    """One iteration, as far as it is shown."""

    finished: int
    reward: float
    zero_variance: float | None
    seconds: float
    samples: int

    @property
    def rate(self) -> str:
        """Samples a second, generated, scored and learned from."""
        return f"{self.samples / self.seconds:.1f} samples/s"


class Display:
    """Shows a run's progress on ``console``."""

    def __init__(self, total: int, finished: int, console: Console | None = None) -> None:
        self.console = console or Console()
        self.total, self.first = total, finished
        self.started = time.monotonic()
        self.heldout = "-"
        self._bar: Progress | None = None
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]train"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(
                    "reward {task.fields[reward]}  held-out {task.fields[heldout]}  {task.fields[rate]}"
                ),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._task = self._bar.add_task(
                "train", total=total, completed=finished, reward="-", heldout="-", rate=""
            )

    def __enter__(self) -> "Display":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def know(self, evaluation: Evaluation, metric: str) -> None:
        """Show a held-out figure from now on, without a line of its own."""
        self.heldout = f"{evaluation.interval(metric).mean:.3f}"
        if self._bar:
            self._bar.update(self._task, heldout=self.heldout)

    def evaluated(self, when: str, evaluation: Evaluation, metric: str) -> None:
        """Show a held-out figure."""
        self.know(evaluation, metric)
        interval = evaluation.interval(metric)
        self.say(
            f"held-out {metric} {when}: {interval.mean:.3f} "
            f"[{interval.low:.3f}, {interval.high:.3f}], n={interval.n}"
        )

    def iterated(self, line: Line) -> None:
        """Show an iteration."""
        if self._bar:
            self._bar.update(
                self._task,
                completed=line.finished,
                reward=f"{line.reward:.3f}",
                heldout=self.heldout,
                rate=line.rate,
            )
            return
        per_iteration = (time.monotonic() - self.started) / (line.finished - self.first)
        left = timedelta(seconds=round(per_iteration * (self.total - line.finished)))  # which knows of days
        flat = "" if line.zero_variance is None else f"  flat groups {line.zero_variance:.0%}"
        self.say(
            f"iteration {line.finished}/{self.total}  reward {line.reward:.3f}{flat}  "
            f"held-out {self.heldout}  {line.seconds:.1f} s  {line.rate}  left {left}"
        )


def before_after_table(before: Evaluation, after: Evaluation, measures: Sequence[str]) -> Table:
    """A row a measure: before, after, and the difference scene by scene."""
    table = Table(title=f"Held-out scenes: {len(after.scene_ids)}, {_how(after)}", title_justify="left")
    for column in ("measure", "before", "after", "difference"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    for measure in measures:
        first, last = before.interval(measure), after.interval(measure)
        change = paired_difference(before, after, measure)
        if not last.n:
            continue
        name = f"{measure}\n(lower is better)" if measure in LOWER_IS_BETTER else measure
        table.add_row(name, _with_ends(first), _with_ends(last), _with_ends(change, "+"))
    table.caption = "means with 95% bootstrap intervals"
    return table


def _with_ends(interval: Interval, sign: str = "") -> str:
    return f"{interval.mean:{sign}.3f}\n[{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


def _how(evaluation: Evaluation) -> str:
    how = evaluation.how
    return (
        f"{how['sampler']} sampler, {how['num_steps']} steps, guidance {how['guidance_scale']:g}, "
        f"{len(how['seeds'])} seed(s), {how['weights']} weights"
    )
