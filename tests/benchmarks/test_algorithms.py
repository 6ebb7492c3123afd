import json

import pytest

from benchmarks import algorithms
from benchmarks.algorithms import ARMS, Arm, markdown
from rlnsp import config, plugins
from rlnsp.config import plugin_settings
from rlnsp.settings import RunConfig


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_every_arm_is_a_run_that_can_be_configured(arm):
    run: RunConfig = config.load("world", arm.overrides, ["nsp_reward"])
    algorithm = plugins.find("algorithms", run.algorithm.use)
    algorithm(plugin_settings("algorithms", run.algorithm, "algorithm"), run.sampler)
    assert (run.sampler.rule, run.sampler.noise_level) == (arm.rule, arm.noise)
    assert run.trainer.num_iterations == algorithms.ITERATIONS


def test_arms_have_folders_of_their_own_and_every_algorithm_has_one():
    assert len({arm.name for arm in ARMS}) == len(ARMS)
    assert {arm.algorithm for arm in ARMS} == {"ddpo", "grpo", "grpo_guard", "flow_dppo", "nft", "awm"}


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Runs that are there already: seed s ends at 0.7 + s / 100, and did not rise at the seeds listed."""
    flat: list[int] = []
    monkeypatch.setattr(algorithms, "RUN", tmp_path)
    monkeypatch.setattr(algorithms, "ROOT", tmp_path)
    monkeypatch.setattr(algorithms.files, "policy_folder", lambda name: tmp_path)
    monkeypatch.setattr(algorithms, "key", lambda *paths: "key")
    monkeypatch.setattr(algorithms, "work", lambda run: {"trained_fraction": 0.375, "forwards": 720})
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "algorithms.md").write_text("above <!-- learning -->old<!-- /learning --> below")

    def reinforced(run, seed, *overrides):
        number = int(seed.removeprefix("--seed="))
        low = -0.01 if run.parent.name == "ddpo-cps-0.7" and number in flat else 0.05
        heldout = {"before": 0.6, "after": 0.7 + number / 100, "difference_ci95": [low, 0.2]}
        run.mkdir(parents=True)
        (run / "summary.json").write_text(json.dumps({"wall_s": 60.0 * (number + 1), "heldout": heldout}))
        return run

    monkeypatch.setattr(algorithms, "reinforced", reinforced)
    return flat


def test_the_table_is_written_between_the_marks(trained, tmp_path):
    assert algorithms.main(["--output", str(tmp_path / "runs")]) == 0
    page = (tmp_path / "docs" / "algorithms.md").read_text()
    assert page.startswith("above <!-- learning -->")
    assert page.endswith("<!-- /learning --> below")
    line = next(line for line in page.splitlines() if line.startswith("| `nft` | ode"))
    assert line == "| `nft` | ode | 0.600 | 0.710 | 0.70, 0.71, 0.72 | 2.0 | 38% | 720 |"
    assert len(json.loads((tmp_path / "docs" / "algorithms.json").read_text())["arms"]) == len(ARMS)


def test_an_algorithm_that_does_not_rise_at_every_seed_is_named(trained, tmp_path, capsys):
    trained.append(2)
    assert algorithms.main(["--output", str(tmp_path / "runs")]) == 1
    assert "does not raise consistency at every seed: ddpo-cps-0.7" in capsys.readouterr().out


def test_some_arms_alone_leave_the_page_as_it_is(trained, tmp_path):
    assert algorithms.main(["--output", str(tmp_path / "runs"), "--only", "awm"]) == 0
    assert "old" in (tmp_path / "docs" / "algorithms.md").read_text()


def test_the_overrides_of_an_arm_are_read_as_they_are_meant():
    arm = Arm(algorithm="nft", rule="ode", settings={"sampler.same_noise": False})
    assert "sampler.same_noise=false" in arm.overrides
    assert "algorithm.use=nft" in arm.overrides
    assert markdown([]).count("\n") == 1
