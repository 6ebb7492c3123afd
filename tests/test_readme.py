"""What the pages show works: every command parses and its settings are checked, every snippet runs."""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from rlnsp import cli, config, plugins
from rlnsp.commands import eval as evaluation
from rlnsp.sweep import inline as sweeps
from rlnsp.sweep.plan import Plan
from tests import pages

LINK = re.compile(r"!?\[[^\]]*\]\((?!https?:|#)([^)#]+)")


def blocks(*languages):
    """(page, text) of every fenced block in one of these languages."""
    return [(page.name, text) for page in pages.PAGES for text in pages.blocks(page, *languages)]


def shell_lines(program, *, but=()):
    """Every command line of a program that a page shows, without its comment."""
    shown = [page for page in pages.PAGES if page.name not in but]
    texts = [text for page in shown for text in pages.blocks(page, "sh", "")]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return sorted({line for line in lines if line.split()[:1] == [program]})


def inline(program):
    """What is said in passing, between backticks."""
    return {
        match.group(1).split()[0]
        for page in pages.PAGES
        for match in re.finditer(rf"`{program} ([^`]+)`", page.read_text())
    }


def write_files(folder):
    """Every file that a page shows by name, as a reader would have it."""
    for _, text in blocks("python", "yaml"):
        if named := re.match(r"# (\S+\.(?:py|yaml))\n", text):
            (folder / named.group(1)).write_text(text)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with those files."""
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def in_one_process(program, given, folder):
    """What ``program`` makes of each of ``given``; importing libraries takes longer than all else."""
    write_files(folder)
    (folder / "given.json").write_text(json.dumps(given))
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(given, json.loads((folder / "found.json").read_text()), strict=True)), done.stderr


SNIPPETS = """
import json, traceback
found = []
for code in json.load(open("given.json")):
    try:
        exec(compile(code, "<page>", "exec"), {"__name__": "__main__"})
        found.append("")
    except BaseException:
        found.append(traceback.format_exc())
json.dump(found, open("found.json", "w"))
"""
COMMANDS = """
import contextlib, io, json, shlex
from rlnsp import cli
found = []
for line in json.load(open("given.json")):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(shlex.split(line))
    found.append([code, out.getvalue(), err.getvalue()])
json.dump(found, open("found.json", "w"))
"""


@pytest.fixture(scope="module")
def snippets(tmp_path_factory):
    """By code, what was wrong with it."""
    return in_one_process(
        SNIPPETS, [code for _, code in blocks("python")], tmp_path_factory.mktemp("snippets")
    )[0]


HEAVY = ("pretrain", "sft", "curate")
"""Commands that import every library there is."""


@pytest.fixture(scope="module")
def heavy(tmp_path_factory):
    """By command line, the exit code of its dry run and what it said."""
    lines = [dry(line) for line in shell_lines("rlnsp", but=pages.WALKED) if line.split()[1] in HEAVY]
    found, complaints = in_one_process(COMMANDS, lines, tmp_path_factory.mktemp("commands"))
    assert complaints == ""
    return found


def dry(line):
    """The words of a command line that does nothing: all but weights is found and checked."""
    words = shlex.split(line, comments=True)[1:]
    return shlex.join([*words, *(["--dry-run"] if "--dry-run" not in words else [])])


def test_there_is_something_to_check():
    assert len(shell_lines("rlnsp")) > 10
    assert len(blocks("python")) >= 5
    assert {"README.md", "ARCHITECTURE.md", "writing-a-reward.md"} <= {page.name for page in pages.PAGES}


@pytest.mark.parametrize("line", shell_lines("rlnsp", but=pages.WALKED))
def test_every_command_is_one_that_rlnsp_takes(line, here, capsys, request):
    name, *words = shlex.split(line, comments=True)[1:]
    if name == "train" and "--resume" not in words:
        assert cli.main(shlex.split(dry(line))) == 0
        assert capsys.readouterr().out
        return
    if name in HEAVY:
        code, out, err = request.getfixturevalue("heavy")[dry(line)]
        assert (code, err) == (0, "")
        assert out
        return
    _, command = cli._find(name)
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    command.add_arguments(parser)
    args = parser.parse_intermixed_args(words)
    if name == "sweep":
        Plan(sweeps.load(args.config, args.words)).check()
        return
    if name == "eval":
        evaluation._measured(args)
        return
    rewards = [args.reward] if name == "reward" and args.reward else []
    config.load(getattr(args, "config", None) or "world", getattr(args, "overrides", []), rewards)


@pytest.mark.parametrize("name", sorted(inline("rlnsp")))
def test_every_command_named_in_passing_exists(name):
    assert name in {*cli.OWN, *plugins.installed("commands"), "COMMAND", "--help"}


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (pages.ROOT / "Makefile").read_text(), re.MULTILINE))
    named = inline("make") | {line.split()[1] for line in shell_lines("make")}
    assert {"demo", "test"} <= named <= targets


@pytest.mark.parametrize("module", sorted({name for name in inline("python -m") if "." in name}))
def test_every_module_that_is_run_by_name_has_help(module):
    path = pages.ROOT / f"{module.replace('.', '/')}.py"
    assert path.is_file()
    assert 'if __name__ == "__main__":' in path.read_text()


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_every_python_snippet_runs(page, code, snippets):
    assert not snippets[code], f"{page}\n{code}\n{snippets[code]}"


SHOWN = {word for line in shell_lines("rlnsp") for word in line.split() if ".py:" in word}
REWARDS = sorted(SHOWN - {"served.py:Served"})  # which wants a server: test_faults has one


@pytest.mark.parametrize("flag", REWARDS)
def test_every_reward_that_is_shown_keeps_to_the_seam(flag, here):
    """Scored on clips of the world, through the same door as in a run."""
    import numpy as np
    import torch

    from rlnsp.scoring import build_rewards, score
    from rlnsp.types import Sample
    from rlnsp.world import scenes

    run = config.load("world", rewards=[flag])
    rng = np.random.default_rng(0)
    samples = [
        Sample(
            scene=scene,
            frames=rng.integers(0, 256, (9, 64, 64, 3), dtype=np.uint8),
            fps=8.0,
            latents=torch.from_numpy(rng.standard_normal((96, 16), np.float32)),
        )
        for scene in scenes("train", 4, seed=0)
        for _ in range(2)
    ]
    (values,) = score(build_rewards(run.rewards), samples).raw.values()
    assert values.shape == (8,)
    assert values.unique().numel() > 1


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page):
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert missing == []


def test_the_reward_in_the_readme_takes_about_ten_lines():
    (code,) = [text for page, text in blocks("python") if page == "README.md"]
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith("#")]) <= 10


def test_the_readme_has_a_place_for_the_ablation():
    from benchmarks.ablation_table import MARKS

    text = (pages.ROOT / "README.md").read_text()
    assert [text.count(mark) for mark in MARKS] == [1, 1]
    assert text.index(MARKS[0]) < text.index(MARKS[1])
