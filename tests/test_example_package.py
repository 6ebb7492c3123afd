"""The package that docs/example-package shows: installed by pip, found by its entry point, trained with."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The environment of a shell in which it is installed."""
    home = tmp_path_factory.mktemp("package")
    source = shutil.copytree(ROOT / "docs" / "example-package", home / "source")
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(home / "site")]
    run([sys.executable, "-m", "pip", "install", *offline, str(source)], os.environ, home)
    return home, {**os.environ, "PYTHONPATH": str(home / "site"), "OMP_NUM_THREADS": "1"}


def run(command, environment, home):
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_listed_with_its_range_and_needs(installed):
    home, environment = installed
    listed = run([sys.executable, "-m", "rlnsp", "reward", "list"], environment, home)
    (line,) = [line for line in listed.splitlines() if line.startswith("sharpness ")]
    assert line.split()[1:6] == ["0", "to", "1", "frames", "yes"]
    assert line.endswith("The mean difference of neighbouring pixels in a row, in [0, 1].")


def test_its_own_test_passes(installed):
    home, environment = installed
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(home / "source")]
    assert "1 passed" in run(command, environment, home)


TOY = """
policy: {use: "rlnsp.testing:ToyPolicy"}
algorithm: {use: grpo}
rewards: {sharpness: {use: sharpness, config: {every: 2}}}
trainer: {num_iterations: 2, scenes_per_iteration: 2, group_size: 4, learning_rate: 0.01}
evaluation: {num_scenes: 4, bootstrap: 100}
"""


def test_a_run_trains_with_it_by_name(installed):
    home, environment = installed
    (home / "toy.yaml").write_text(TOY)
    train = [sys.executable, "-m", "rlnsp", "train", "--config", "toy.yaml", "--output", "run"]
    assert "iteration 2/2" in run(train, environment, home)
    assert "reward/sharpness" in (home / "run" / "metrics.jsonl").read_text()
