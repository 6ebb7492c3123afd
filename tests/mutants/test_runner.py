import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.__main__ import LIST, ROOT, Mutant, misfits, read_list

MODULE = "def double(x):\n    return 2 * x\n\n\ndef half(x):\n    return x / 2\n"
TESTS = "from module import double, half\n\n\ndef test_double():\n    assert double(3) == 6\n    half(1)\n"


def test_every_mutants_original_is_in_its_file_exactly_once_and_its_tests_exist():
    mutants, _ = read_list(LIST)
    assert len(mutants) >= 45
    assert misfits(mutants, ROOT) == []
    assert [
        test for mutant in mutants for test in mutant.tests if not (ROOT / test.partition("::")[0]).is_file()
    ] == []


def run_list(folder: Path, edits: str, tests: str = TESTS) -> tuple[int, str]:
    """The runner on a tree of one module, in a process of its own."""
    tree = folder / "tree"
    tree.mkdir()
    (tree / "module.py").write_text(MODULE)
    (tree / "test_module.py").write_text(tests)
    (folder / "list.toml").write_text(
        f'[[file]]\npath = "module.py"\ntests = ["test_module.py"]\nedits = [{edits}]\n'
    )
    command = [sys.executable, "-m", "tests.mutants", str(folder / "list.toml"), "--root", str(tree)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTEST_ADDOPTS": ""}
    )
    assert (tree / "module.py").read_text() == MODULE, "the tree itself was touched"
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("4 * x", "3 * x", "there 0 times"),
        ("return", "yield", "there 2 times"),
        ("2 * x", "2 * x", "allowed is one line, once, changed"),
        ("2 * x", "2 *\nx", "allowed is one line, once, changed"),
    ],
)
def test_an_edit_that_does_not_fit_its_file_is_named(tmp_path, old, new, said):
    (tmp_path / "module.py").write_text(MODULE)
    fits = Mutant("module.py", "2 * x", "3 * x", ())
    (wrong,) = misfits([fits, Mutant("module.py", old, new, ())], tmp_path)
    assert said in wrong


def test_the_runner_fails_where_a_mutant_survives_or_where_no_test_ran(tmp_path):
    # Code that does not compile tests nothing, so it does not count as killed.
    edits = ["2 * x", "3 * x"], ["x / 2", "x / 3"], ["2 * x", "2 *"]
    returncode, output = run_list(tmp_path, ", ".join(map(json.dumps, edits)))
    assert "survived: module.py: 'x / 2' -> 'x / 3'" in output
    assert "no test ran (exit status 2): module.py: '2 * x' -> '2 *'" in output
    assert "3 mutants, 2 problems" in output
    assert returncode == 1


def test_the_runner_passes_where_every_mutant_is_killed(tmp_path):
    assert run_list(tmp_path, '["2 * x", "3 * x"]')[0] == 0


def test_the_runner_refuses_tests_that_fail_on_the_code_as_it_is(tmp_path):
    returncode, output = run_list(tmp_path, '["2 * x", "3 * x"]', TESTS.replace("6", "7"))
    assert "fails on the code as it is" in output
    assert returncode == 1
