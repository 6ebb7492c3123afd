import json

import pytest
from PIL import Image

from benchmarks import hacking
from benchmarks.hacking import ARMS, PAGE, PICTURE, main
from rlnsp import config

HACKED = {"motion": (0.5, 0.9, [0.3, 0.5]), "nsp_reward": (0.6, 0.1, [-0.6, -0.4])}
FINE = {"motion": (0.5, 0.6, [0.05, 0.15]), "nsp_reward": (0.6, 0.7, [0.02, 0.18])}


def test_the_arms_are_runs_that_optimise_what_they_say():
    expected = [
        {"motion": 1, "nsp_reward": 0},
        {"motion": 1, "nsp_reward": 1},
        {"motion": 0.2, "nsp_reward": 1},
    ]
    for arm, weights in zip(ARMS, expected, strict=True):
        run = config.load("world", rewards=list(arm.rewards))
        assert {name: slot.weight for name, slot in run.rewards.items()} == weights


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Runs that are there already."""
    ends = {
        "motion-alone": HACKED,
        "motion-and-nsp_reward": HACKED,
        "motion-x-0.2-and-nsp_reward": FINE,
    }

    def reinforced(run, *options, reward):
        assert (reward, options[0]) == ("motion=0.2" if "0.2" in run.name else "motion", "--reward")
        assert "trainer.num_iterations=3" in options
        name = run.name.removesuffix("-3-16")
        run.mkdir(parents=True, exist_ok=True)
        heldout = {
            measure: {"before": before, "after": end, "ci95": [end - 0.1, end + 0.1], "difference_ci95": ci}
            for measure, (before, end, ci) in ends[name].items()
        }
        lines = [{"iteration": 0, "heldout/motion": 0.5}]
        lines += [{"iteration": i, "reward/motion": 0.5, "reward/nsp_reward": 0.2 * i} for i in (1, 2, 3)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (run / "summary.json").write_text(json.dumps({"heldout_all": heldout}))
        return run

    monkeypatch.setattr(hacking, "reinforced", reinforced)
    (tmp_path / PAGE).parent.mkdir()
    (tmp_path / PAGE).write_text("above <!-- hacking -->old<!-- /hacking --> below")
    folders = ["--output", str(tmp_path / "runs"), "--root", str(tmp_path)]
    return ends, [*folders, "--iterations", "3", "--scenes", "16"]


def test_the_figures_and_the_picture_are_written(trained, tmp_path):
    assert main(trained[1]) == 0
    page = (tmp_path / PAGE).read_text()
    assert page.startswith("above <!-- hacking -->\n![")
    assert "](images/reward-hacking.png)\n\n| 3 iterations |" in page
    assert page.endswith("<!-- /hacking --> below")
    lines = page.splitlines()
    assert "| motion alone | consistency (nsp_reward) | 0.600 | 0.100 | -0.500 (-0.600 to -0.400) |" in lines
    assert "| motion x 0.2 and nsp_reward | motion | 0.500 | 0.600 | +0.100 (+0.050 to +0.150) |" in lines
    assert "are 16 held-out scenes before and after. One seed." in lines[-2]
    with Image.open(tmp_path / PICTURE) as picture:
        assert picture.width == 1800
        assert picture.convert("RGB").getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("name", "measure", "interval", "said"),
    [
        ("motion-alone", "motion", [-0.1, 0.2], "motion alone does not raise motion"),
        ("motion-alone", "nsp_reward", [-0.2, 0.1], "motion alone does not lower consistency"),
        (
            "motion-x-0.2-and-nsp_reward",
            "nsp_reward",
            [-0.2, -0.1],
            "a fifth of motion beside nsp_reward, and consistency falls",
        ),
    ],
)
def test_what_does_not_show_is_said(trained, capsys, monkeypatch, name, measure, interval, said):
    ends, words = trained
    monkeypatch.setitem(ends, name, ends[name] | {measure: (*ends[name][measure][:2], interval)})
    assert main(words) == 1
    assert capsys.readouterr().out.splitlines()[-1] == said
