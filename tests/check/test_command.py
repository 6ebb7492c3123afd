"""The command: its exit codes, its table and its JSON."""

import json
from pathlib import Path

import pytest

from rlnsp import cli
from tests.check import faults

TOY = f"""\
policy: {{use: "rlnsp.testing:ToyPolicy"}}
rewards: {{given: {{use: "{faults.__name__}:brightness"}}}}
algorithm: {{use: grpo}}
sampler: {{num_steps: 4, window: {{size: 2}}}}
trainer: {{scenes_per_iteration: 2, group_size: 3, micro_batch_size: 8, num_iterations: 10}}
"""
CHECKS = [
    "config",
    "weights",
    "ranks",
    "velocity",
    "schedule",
    "sampler",
    "stock",
    "reward given",
    "groups",
    "clip",
    "stored latents",
    "gradient",
    "first ratio",
    "drift",
    "step",
    "ratio moves",
    "reference",
    "cost",
    "restored",
]


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A config in an otherwise empty directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "toy.yaml"
    path.write_text(TOY)
    return path


def test_what_is_sound_exits_0_with_documented_json_and_writes_nothing(toy, capsys):
    assert cli.main(["check", "--config", str(toy), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"passed", "failed", "seconds", "checks"}
    assert (found["passed"], found["failed"]) == (True, [])
    assert [one["check"] for one in found["checks"]] == CHECKS
    for one in found["checks"]:
        assert set(one) == {"check", "verdict", "says", "remedy", "figures"}
        assert one["verdict"] in {"pass", "note"}
        assert one["says"]
    assert list(toy.parent.iterdir()) == [toy]


def test_every_check_has_a_line_in_the_docs():
    page = (Path(__file__).parents[2] / "docs" / "checking.md").read_text()
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| `")]
    assert rows == [f"`{name.replace('given', 'NAME')}`" for name in CHECKS]


def test_a_fault_exits_1_and_stands_in_the_table_with_its_remedy(toy, capsys):
    flag = ["--reward", f"{faults.__name__}:constant"]
    assert cli.main(["check", "--config", str(toy), *flag]) == 1
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "wrong reward constant" in said
    assert "-> read the clips: completions, or sample.frames" in said
    assert "1 wrong" in said


def test_what_rests_on_a_fault_is_not_tried(toy, capsys):
    assert (
        cli.main(["check", "--config", str(toy), f"policy.use={faults.__name__}:NoZeroAtTheEnd", "--json"])
        == 1
    )
    found = {one["check"]: one for one in json.loads(capsys.readouterr().out)["checks"]}
    assert found["sampler"]["says"] == "needs schedule"
    assert found["cost"]["verdict"] == "skipped"
    assert found["weights"]["verdict"] == "pass"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.group_sise=4", "unknown key 'trainer.group_sise'; did you mean 'group_size'?"),
        ("rewards.given.use=tests.check.faults:bright", "did you mean 'brightness'?"),
        ("sampler.rule=ode", "grpo trains stochastic steps"),
        ("trainer.scenes_per_iteration=5000", "data.train has 4096 scenes"),
    ],
)
def test_a_bad_config_exits_2_in_one_line(override, message, toy, capsys):
    assert cli.main(["check", "--config", str(toy), override]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.count("\n") == 1
