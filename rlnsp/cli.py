"""``rlnsp COMMAND ...``.  A command's module is imported only when it is chosen, so that help is quick.

Exit codes: 0 done, 1 failed, 2 bad usage or input (one line on stderr, nothing written), 130 interrupted and
143 terminated (saved).
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from rlnsp import __version__, plugins
from rlnsp.atomic import WriteFailed
from rlnsp.interruption import Interrupted, Interruption
from rlnsp.settings import ConfigError

OWN = {
    "train": "improve a policy by reinforcement learning (stage 3)",
    "generate": "make the clip that follows a scene",
    "eval": "measure policies on held-out scenes, side by side",
    "reward": "list the rewards that can be named, or test one before training on it",
    "check": "prove a config, its policy and its rewards before a run",
    "plan": "say what memory and time a run will take, without its weights",
    "export": "write what a run trained for others: a peft adapter, merged weights, a model card",
    "sweep": "compare settings by many runs, in one table with intervals",
    "report": "show runs in one page: curves, clips before and after, what the judge said",
}
"""rlnsp's own commands and what each does; ``rlnsp.commands.NAME`` has its ``add_arguments`` and ``run``."""


class Command(Protocol):
    """What an entry point of the group ``rlnsp.commands`` is.

    Importing it must be quick: what is slow to import belongs inside ``run``.
    """

    help: str
    """What it does, in a line."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare its arguments; ``parser.epilog`` is the place for an example."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Do it; the exit code."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in {"-h", "--help", "help"}:
        print(_overview(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"rlnsp {__version__}")
        return 0
    try:
        description, command = _find(argv[0])
        parser = argparse.ArgumentParser(
            prog=f"rlnsp {argv[0]}",
            description=f"{description[0].upper()}{description[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_arguments(parser)
        args = parser.parse_intermixed_args(argv[1:])
        with Interruption():
            return command.run(args)
    except ConfigError as error:
        print(f"rlnsp: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except WriteFailed as error:
        print(f"rlnsp: error: {error}", file=sys.stderr)
        return 1
    except Interrupted as interrupted:
        return interrupted.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _find(name: str) -> tuple[str, Command]:
    """What the command does, and the command."""
    if name in OWN:
        return OWN[name], cast(Command, importlib.import_module(f"rlnsp.commands.{name}"))
    found = plugins.installed("commands")
    if name in found:
        command: Command = found[name].load()
        return command.help, command
    known = [*OWN, *found]
    hint = plugins.nearest(name, known)
    raise ConfigError(f"there is no command {name!r}{hint}; commands: {', '.join(known)}")


def _overview() -> str:
    """What ``rlnsp --help`` prints."""
    commands = dict(OWN)
    for name, point in plugins.installed("commands").items():
        try:
            commands[name] = point.load().help
        except (ImportError, AttributeError) as error:  # a broken plug-in must not take the help away
            commands[name] = f"(cannot be loaded: {error})"
    lines = "\n".join(f"  {name:<10} {text}" for name, text in commands.items())
    return (
        "usage: rlnsp COMMAND ...\n\n"
        "Reinforcement-learning fine-tuning of video generators for next-scene prediction.\n\n"
        f"{lines}\n\n"
        "rlnsp COMMAND --help tells more.  To begin: rlnsp train --reward nsp_reward"
    )
