import io

import pytest
from rich.console import Console

from rlnsp.progress import Display, Line

LINE = Line(finished=3, reward=0.25, zero_variance=0.5, seconds=2.0, samples=96)


def shown(terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=160, color_system=None)
    with Display(10, 2, console) as display:
        display.heldout = "0.310"
        display.iterated(LINE)
    return out.getvalue()


def test_lines_without_a_terminal_are_plain_and_have_everything():
    said = shown(terminal=False)
    assert said.startswith(
        "iteration 3/10  reward 0.250  flat groups 50%  held-out 0.310  2.0 s  48.0 samples/s  left 0:00:"
    )
    assert "\x1b" not in said
    assert said.count("\n") == 1


def test_a_run_of_days_has_days_left(monkeypatch):
    clock = iter([0.0, 6 * 3600.0])  # the one iteration that was done took six hours, and seven are left
    monkeypatch.setattr("rlnsp.progress.time.monotonic", lambda: next(clock))
    out = io.StringIO()
    Display(10, 2, Console(file=out)).iterated(LINE)
    assert out.getvalue().endswith("left 1 day, 18:00:00\n")


@pytest.mark.parametrize("part", ["3/10", "reward 0.250", "held-out 0.310", "48.0 samples/s", "left"])
def test_a_terminal_has_a_bar_with_everything(part):
    assert part in shown(terminal=True)
