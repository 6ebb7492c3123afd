"""What the house is like: small files, imports that point down, a light front door."""

import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("rlnsp", "rewards", "policies", "pretrain", "benchmarks", "tests")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
VAGUE = {"utils.py", "util.py", "helpers.py", "common.py", "base.py", "misc.py"}


def test_there_are_files_to_look_at():
    assert len(FILES) > 20


def test_no_file_is_longer_than_400_lines():
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES
    }
    assert {name: count for name, count in lines.items() if count > 400} == {}


def test_files_are_named_for_what_they_hold():
    assert [path for path in FILES if path.name in VAGUE] == []


def test_imports_keep_to_the_contracts():
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "statement",
    [
        "import rlnsp",
        "import rlnsp.config",
        "import rlnsp.manifest",
        "import rlnsp.world",
        "from rlnsp.cli import main; main(['--help'])",
        "from rlnsp.cli import main; main(['--version'])",
    ],
)
def test_the_front_door_does_not_import_torch(statement):
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "diffusers", "peft", "accelerate", "trl", "matplotlib"}
    *_, modules = done.stdout.splitlines()  # the help itself may speak of them
    assert heavy & set(modules.split()) == set()


def test_what_is_installed_is_what_pyproject_declares():
    """An editable install made before an entry point was added does not have it."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    for group, points in declared.items():
        installed = {point.name: point.value for point in entry_points(group=group)}
        assert points.items() <= installed.items()


@pytest.mark.parametrize("group", ["rlnsp.rewards", "rlnsp.policies", "rlnsp.algorithms", "rlnsp.commands"])
def test_every_entry_point_leads_somewhere(group):
    points = entry_points(group=group)
    assert points
    for point in points:
        point.load()


def test_every_dependency_has_an_exact_version_in_the_constraints():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {spec.split(">=")[0].split("[")[0].lower().replace("_", "-") for spec in asked}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    assert names - pinned == set()
