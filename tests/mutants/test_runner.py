import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.__main__ import LIST, ROOT, misfits, read_list

MODULE = "def double(x):\n    return 2 * x\n\n\ndef half(x):\n    return x / 2\n"
TESTS = "from module import double, half\n\n\ndef test_double():\n    assert double(3) == 6\n    half(1)\n"


def test_every_mutants_original_is_in_its_file_exactly_once_and_its_tests_exist():
    mutants, _ = read_list(LIST)
    assert len(mutants) >= 45
    assert misfits(mutants, ROOT) == []
    assert [test for mutant in mutants for test in mutant.tests if not (ROOT / test).is_file()] == []


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
    ("edits", "status", "said"),
    [
        ('["2 * x", "3 * x"]', 0, "1 mutants, 0 problems"),
        ('["2 * x", "3 * x"], ["x / 2", "x / 3"]', 1, "survived: module.py: 'x / 2' -> 'x / 3'"),
        ('["4 * x", "3 * x"]', 1, "the original is there 0 times"),
        ('["return", "yield"]', 1, "the original is there 2 times"),
        ('["2 * x", "2 * x"]', 1, "allowed is one line, once, changed"),
        ('["2 * x", "2 *"]', 1, "no test ran (exit status 2)"),  # code that does not compile tests nothing
        ("", 1, "0 mutants"),
    ],
)
def test_the_runner_passes_only_where_every_mutant_is_killed_by_a_test_that_ran(
    tmp_path, edits, status, said
):
    returncode, output = run_list(tmp_path, edits)
    assert said in output
    assert returncode == status


def test_the_runner_refuses_tests_that_fail_on_the_code_as_it_is(tmp_path):
    returncode, output = run_list(tmp_path, '["2 * x", "3 * x"]', TESTS.replace("6", "7"))
    assert "fails on the code as it is" in output
    assert returncode == 1
