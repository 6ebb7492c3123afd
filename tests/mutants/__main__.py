"""Break the code one line at a time and see that a test notices: ``python -m tests.mutants [list.toml]``.

Each edit of the list is applied in a temporary copy of the tree, never in the tree itself, and its tests are
run there.  A test run that fails kills the mutant.  The exit status is 1 if a mutant survives, or if an edit
no longer fits.

Torch takes longer to import than most of these tests to run, so a process that has imported it is forked for
each mutant.
"""

import argparse
import contextlib
import importlib
import io
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("mutants.toml")
NOT_CODE = (".*", "__pycache__", "runs", "dist", "build", "world-data", "*.egg-info")
SECONDS = 120
KILLED, SURVIVED = 1, 0  # what pytest exits with
HUNG = -signal.SIGALRM


@dataclass(frozen=True)
class Mutant:
    """One edit of one file, and the tests that should notice."""

    path: str
    old: str
    new: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.path}: {self.old!r} -> {self.new!r}"


def read_list(path: Path) -> tuple[list[Mutant], list[str]]:
    """The mutants of a list, and the modules to import before forking."""
    content = tomllib.loads(path.read_text())
    mutants = [
        Mutant(entry["path"], old, new, tuple(entry["tests"]))
        for entry in content["file"]
        for old, new in entry["edits"]
    ]
    return mutants, content.get("import_first", [])


def misfits(mutants: list[Mutant], root: Path) -> list[str]:
    """What is wrong with each edit whose original is not in its file exactly once, on one line."""
    wrong = []
    for mutant in mutants:
        count = (root / mutant.path).read_text().count(mutant.old)
        if count != 1 or "\n" in mutant.old + mutant.new or mutant.old == mutant.new:
            wrong.append(f"{mutant}: the original is there {count} times; allowed is one line, once, changed")
    return wrong


def run_tests(tests: tuple[str, ...], tree: Path) -> tuple[int, str]:
    """Run the tests in a fork of this process: pytest's exit status (or minus a signal) and what it said."""
    with tempfile.TemporaryFile() as output:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            os._exit(_run_pytest(tests, tree))
        _, status = os.waitpid(child, 0)
        output.seek(0)
        return os.waitstatus_to_exitcode(status), output.read().decode(errors="replace")


def _run_pytest(tests: tuple[str, ...], tree: Path) -> int:
    """In the child: forget the tree this was started from, and run pytest in the copy."""
    import pytest

    signal.alarm(SECONDS)
    os.chdir(tree)
    for name in [
        name
        for name in sys.modules
        if name.split(".")[0] in {"rlnsp", "policies", "rewards", "pretrain", "tests"}
    ]:
        del sys.modules[name]
    sys.path[:] = [str(tree)] + [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    status = 70  # neither killed nor survived, should anything escape pytest
    # Only the verdict counts: no rewritten assertions, whose messages nobody reads, and no plug-in of others.
    options = [
        "-x",
        "-q",
        "--assert=plain",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:anyio",
        "--rootdir",
        str(tree),
    ]
    try:
        status = int(pytest.main([*options, *tests]))
    except BaseException:  # the child must end here, not go on as a second parent
        traceback.print_exc()
    sys.stderr.flush()
    sys.stdout.flush()
    return status


def run(mutants: list[Mutant], root: Path) -> list[str]:
    """Run every mutant and return what went wrong, a line each; none where all are killed."""
    problems = misfits(mutants, root)
    if problems:
        return problems
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve() / "tree"
        shutil.copytree(root, tree, ignore=shutil.ignore_patterns(*NOT_CODE), symlinks=True)
        for tests in dict.fromkeys(mutant.tests for mutant in mutants):
            status, said = run_tests(tests, tree)
            if status != SURVIVED:
                problems.append(
                    f"{' '.join(tests)}: fails on the code as it is (exit status {status})\n{said}"
                )
        if problems:
            return problems
        for number, mutant in enumerate(mutants, 1):
            path, start = tree / mutant.path, time.monotonic()
            original = path.read_text()
            path.write_text(original.replace(mutant.old, mutant.new))
            status, said = run_tests(mutant.tests, tree)
            path.write_text(original)
            verdict = {KILLED: "killed", SURVIVED: "SURVIVED", HUNG: "killed (hung)"}.get(status, "BROKEN")
            print(
                f"{number:3}/{len(mutants)} {time.monotonic() - start:5.1f} s  {verdict}  {mutant}",
                flush=True,
            )
            if status == SURVIVED:
                problems.append(f"survived: {mutant}")
            elif status not in (KILLED, HUNG):
                problems.append(f"no test ran (exit status {status}): {mutant}\n{said}")
    return problems


def main(argv: list[str]) -> int:
    """Read the arguments, run the list, print the outcome."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("list", nargs="?", type=Path, default=LIST)
    parser.add_argument("--root", type=Path, default=ROOT, help="the tree to copy")
    parser.add_argument("--only", default="", help="run the edits of paths that contain this")
    arguments = parser.parse_args(argv)

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.dont_write_bytecode = True  # a stale .pyc of the same second and size would hide an edit
    mutants, import_first = read_list(arguments.list)
    mutants = [mutant for mutant in mutants if arguments.only in mutant.path]
    with contextlib.redirect_stderr(io.StringIO()):
        for module in import_first:
            importlib.import_module(module)
    problems = run(mutants, arguments.root.resolve())
    for problem in problems:
        print(problem)
    print(f"{len(mutants)} mutants, {len(problems)} problems")
    return 1 if problems or not mutants else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
