"""What was found: for people a table, for machines JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.table import Table

Verdict = Literal["pass", "fail", "note", "skipped"]
MARKS: dict[Verdict, str] = {
    "pass": "[green]ok[/]",
    "fail": "[bold red]wrong[/]",
    "note": "[yellow]note[/]",
    "skipped": "[dim]not tried[/]",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check says."""

    verdict: Verdict
    says: str
    """What was seen."""
    remedy: str = ""
    """What to do about it."""
    figures: Mapping[str, float | int | str] = field(default_factory=dict)


def right(says: str, figures: Mapping[str, float | int | str] | None = None) -> Finding:
    """As it must be."""
    return Finding(verdict="pass", says=says, figures=figures or {})


def wrong(says: str, remedy: str, figures: Mapping[str, float | int | str] | None = None) -> Finding:
    """A fault, with what to do about it."""
    return Finding(verdict="fail", says=says, remedy=remedy, figures=figures or {})


def note(says: str, remedy: str = "", figures: Mapping[str, float | int | str] | None = None) -> Finding:
    """No fault, but worth knowing."""
    return Finding(verdict="note", says=says, remedy=remedy, figures=figures or {})


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that was found, in the order in which it was tried."""

    findings: Mapping[str, Finding]
    """By check; one of a reward is called 'reward NAME'."""
    seconds: float

    @property
    def passed(self) -> bool:
        """Nothing is wrong."""
        return not self.failed

    @property
    def failed(self) -> list[str]:
        """What is wrong, by name."""
        return [name for name, finding in self.findings.items() if finding.verdict == "fail"]

    def to_json(self) -> dict[str, Any]:
        """As docs/checking.md has it; a figure that is not finite is null."""
        return {
            "passed": self.passed,
            "failed": self.failed,
            "seconds": round(self.seconds, 2),
            "checks": [
                {
                    "check": name,
                    "verdict": finding.verdict,
                    "says": finding.says,
                    "remedy": finding.remedy,
                    "figures": {key: _finite(value) for key, value in finding.figures.items()},
                }
                for name, finding in self.findings.items()
            ],
        }

    def as_table(self, title: str) -> Table:
        """A row a check, the remedy under what is wrong."""
        table = Table(title=title, title_justify="left", show_lines=False, pad_edge=False)
        for column in ("", "check", "found"):
            table.add_column(column, overflow="fold", no_wrap=column == "")
        for name, finding in self.findings.items():
            colour = "red" if finding.verdict == "fail" else "yellow"
            says = finding.says.replace("[", r"\[")
            remedy = finding.remedy.replace("[", r"\[")
            found = f"{says}\n[{colour}]-> {remedy}[/]" if remedy else says
            table.add_row(MARKS[finding.verdict], name, found)
        count = len(self.failed)
        verdict = "[green]nothing is wrong[/]" if not count else f"[bold red]{count} wrong[/]"
        table.caption = f"{verdict}; {self.seconds:.0f} s"
        table.caption_justify = "left"
        return table


def _finite(value: float | int | str) -> float | int | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value
