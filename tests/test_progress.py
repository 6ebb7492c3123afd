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
        "iteration 3/10  reward 0.250  flat groups 50%  held-out 0.310  2.0 s  48.0 samples/s  left 00:00:"
    )
    assert "\x1b" not in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("part", ["3/10", "reward 0.250", "held-out 0.310", "48.0 samples/s", "left"])
def test_a_terminal_has_a_bar_with_everything(part):
    assert part in shown(terminal=True)
