"""The wheel as a stranger gets it: built, installed in a clean environment, run from outside the checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command, cwd):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT), cwd=out)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def stranger(wheel, tmp_path_factory):
    """A directory with the wheel in an environment of its own, which borrows only rlnsp's dependencies."""
    home = tmp_path_factory.mktemp("stranger")
    venv.create(home / "venv", with_pip=False, symlinks=True)
    (site,) = (home / "venv").glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # Dependencies come last on the path and without their .pth files, so that the checkout, which is
    # installed beside them in editable form, stays out of reach.
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return home


def python(stranger, code):
    return run(str(stranger / "venv/bin/python"), "-c", code, cwd=stranger)


def test_the_wheel_holds_the_four_packages_the_configs_and_nothing_of_the_tests(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"rlnsp", "rewards", "policies", "pretrain"}
    configs = {
        str(path.relative_to(ROOT / "configs")) for path in (ROOT / "configs").rglob("*") if path.is_file()
    }
    assert {f"rlnsp/_configs/{name}" for name in configs} <= set(names)
    assert {f"rlnsp/report/template/report.{kind}" for kind in ("html.j2", "css", "js")} <= set(names)


@pytest.mark.parametrize("folder", ["policies/world", "rewards/world_judge"])
def test_the_wheel_holds_the_worlds_weights(folder, wheel):
    files = [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    assert files
    with zipfile.ZipFile(wheel) as archive:
        assert {str(path.relative_to(ROOT)) for path in files} <= set(archive.namelist())


def test_every_package_comes_from_the_wheel_and_not_from_the_checkout(stranger):
    packages = "rlnsp, rewards, policies, pretrain"
    found = python(stranger, f"import {packages}\nprint(*(package.__file__ for package in ({packages})))")
    assert all(Path(path).is_relative_to(stranger) for path in found.split())


def test_help_and_a_config_by_name_work_outside_the_checkout(stranger):
    assert "rlnsp COMMAND" in run(str(stranger / "venv/bin/python"), "-m", "rlnsp", "--help", cwd=stranger)
    assert "unified" in python(stranger, "from rlnsp import config\nprint(config.load('world').policy.use)")


def test_a_dry_run_outside_the_checkout_prints_the_whole_config(stranger):
    printed = run(str(stranger / "venv/bin/python"), "-m", "rlnsp", "train", "--dry-run", cwd=stranger)
    assert "group_size: " in printed
