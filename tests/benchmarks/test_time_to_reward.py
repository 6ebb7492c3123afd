import json

import pytest

from benchmarks import stages, time_to_reward
from benchmarks.recipes import ARMS, PLAIN, PRESET, TRICKS, Arm
from benchmarks.time_to_reward import Point, best, compare, reached

CONFIG = """
policy: {use: "rlnsp.testing:ToyPolicy"}
rewards: {nsp_reward: {use: "benchmarks.shapes:drawn"}}
algorithm: {use: grpo}
sampler: {num_steps: 3, window: {size: 2}}
trainer: {scenes_per_iteration: 2, group_size: 3}
"""


def points(*scores, minutes=1.0):
    """An evaluation every two iterations, so many minutes apart."""
    return [Point(iteration=2 * i, minutes=minutes * i, score=score) for i, score in enumerate(scores)]


def test_the_plain_recipe_is_that_of_its_authors_but_for_its_scale():
    run = PLAIN.load()
    assert (run.sampler.num_steps, run.sampler.window.size, run.sampler.guidance_scale) == (10, 9, 4.5)
    assert (run.sampler.rule, run.sampler.same_noise) == ("flow_sde", False)
    assert (run.trainer.micro_batch_size, run.trainer.minibatches) == (9, 2)
    assert run.algorithm.config["kl_coefficient"] == 0.04
    assert run.evaluation.num_steps is None


def test_the_preset_is_the_config_world_as_it_is():
    ours, shipped = PRESET.load(), time_to_reward.config.load("world")
    assert (ours.algorithm, ours.sampler) == (shipped.algorithm, shipped.sampler)
    assert ours.trainer.learning_rate == shipped.trainer.learning_rate


def test_both_make_as_many_samples_and_are_evaluated_alike():
    runs = [PLAIN.load(), PRESET.load()]
    assert {run.trainer.scenes_per_iteration * run.trainer.group_size for run in runs} == {96}
    assert {(run.evaluation.num_scenes, run.evaluation.num_seeds) for run in runs} == {(256, 1)}
    assert len({run.trainer.ema_decay for run in runs}) == 1


@pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: trick.name)
def test_a_trick_is_the_plain_recipe_with_something_changed(trick):
    plain, run = PLAIN.load(), trick.load()
    assert run != plain
    assert run.sampler.num_steps == plain.sampler.num_steps
    assert run.trainer.learning_rate == plain.trainer.learning_rate
    assert (run.sampler.guidance_scale == 4.5) == (trick.name != "no-guidance")
    assert run.sampler.same_noise == ("shared" in trick.name)
    assert (run.trainer.micro_batch_size == 9) == (trick.name != "batched")


def test_an_arm_that_is_changed_has_other_runs():
    def arm(**changes):
        return Arm(name="a", what="", changes=changes, iterations=2, every=1).folder

    assert arm() == arm()
    assert arm() != arm(seed=1)
    assert len({arm.folder for arm in ARMS.values()}) == len(ARMS)


def test_the_best_is_the_first_of_the_highest():
    assert best(points(0.5, 0.7, 0.6, 0.7)).iteration == 2


def test_a_score_is_reached_where_it_is_never_lost_again():
    assert reached(points(0.6, 0.7, 0.65, 0.7, 0.8), 0.7) == Point(iteration=6, minutes=3.0, score=0.7)
    assert reached(points(0.6, 0.7, 0.8, 0.65), 0.7) is None


def test_a_start_that_is_good_enough_is_no_training():
    found = reached(points(0.8, 0.8), 0.7)
    assert found is not None
    assert found.iteration == 2


def curves(plain, ours):
    return {PLAIN.name: [plain] * 3, PRESET.name: [ours] * 3}


def test_the_plain_recipes_time_is_until_its_best_score():
    row = compare(curves(points(0.6, 0.7, 0.65, minutes=10.0), points(0.6, 0.65, 0.7)))[0]
    assert (row["plain_minutes"], row["ours_minutes"], row["times_sooner"]) == (10.0, 2.0, 5.0)
    assert row["holds"]


def test_less_than_five_times_sooner_does_not_hold():
    row = compare(curves(points(0.6, 0.7, minutes=9.9), points(0.6, 0.65, 0.7)))[0]
    assert not row["holds"]


def test_a_score_that_is_not_reached_does_not_hold():
    row = compare(curves(points(0.6, 0.9), points(0.6, 0.7)))[0]
    assert (row["ours_minutes"], row["times_sooner"], row["holds"]) == (None, None, False)


def test_a_recipe_that_never_rises_is_said_to_have_taken_its_budget():
    found = curves(points(0.7, 0.6, 0.65, minutes=10.0), points(0.6, 0.7))
    rows = compare(found)
    assert not rows[0]["plain_rose"]
    assert (rows[0]["plain_best"], rows[0]["plain_minutes"]) == (0.7, 20.0)
    costs = {PLAIN.name: {"seconds": 1.0, "forwards": 1, "backwards": 1, "peak_bytes": None}}
    text = time_to_reward.markdown(rows, found, costs)
    assert "its start; budget 20.0 min" in text
    assert "never rose above its start at seeds 0, 1, 2" in text


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Three recipes of a policy that runs in milliseconds, and a page."""
    (tmp_path / "toy.yaml").write_text(CONFIG)

    def arm(name, iterations, every, **changes):
        own = {"evaluation.num_scenes": 2, **changes}
        config = str(tmp_path / "toy.yaml")
        return Arm(name=name, what=name, config=config, changes=own, iterations=iterations, every=every)

    plain, ours = arm("slow", 2, 1), arm("quick", 4, 2, **{"sampler.window.size": 1})
    trick = arm("trick", 2, 2, **{"sampler.same_noise": False})
    monkeypatch.setattr(time_to_reward, "PLAIN", plain)
    monkeypatch.setattr(time_to_reward, "PRESET", ours)
    monkeypatch.setattr(time_to_reward, "ARMS", {one.name: one for one in (plain, trick, ours)})
    monkeypatch.setattr(time_to_reward, "ROOT", tmp_path)
    page = tmp_path / time_to_reward.PAGE
    page.parent.mkdir(parents=True)
    page.write_text("above {}old{} below".format(*time_to_reward.MARKS))
    return page


def test_runs_are_trained_once_and_the_page_is_filled(small, tmp_path, monkeypatch):
    time_to_reward.main(["--output", str(tmp_path / "runs")])
    written = json.loads(small.with_suffix(".json").read_text())
    evaluated = {
        name: [[p["iteration"] for p in run] for run in written["curves"][name]] for name in written["curves"]
    }
    assert evaluated == {"slow": [[0, 1, 2]] * 3, "quick": [[0, 2, 4]] * 3}
    minutes = [point["minutes"] for point in written["curves"]["quick"][0]]
    assert minutes[0] == 0 < minutes[1] < minutes[2]
    assert {name: cost["backwards"] for name, cost in written["costs"].items()} == {
        "slow": 12,
        "trick": 12,
        "quick": 6,
    }
    assert written["costs"]["trick"]["forwards"] == 3 * 6 + 12
    assert written["costs"]["trick"]["peak_bytes"] is None
    assert written["costs"]["slow"]["peak_bytes"] > 0
    page = small.read_text()
    assert page.startswith("above <!--")
    assert "| quick, 2 |" in page
    monkeypatch.setattr(stages.cli, "main", lambda argv: pytest.fail(f"trained again: {argv}"))
    time_to_reward.main(["--output", str(tmp_path / "runs")])
    assert json.loads(small.with_suffix(".json").read_text())["curves"] == written["curves"]
