import json

import pytest

from rlnsp.config import ConfigError
from rlnsp.sweep import inline
from rlnsp.sweep.design import Range, SweepConfig, baseline, grid
from rlnsp.sweep.plan import Plan
from tests.sweep.toys import toy_config


def names(sweep):
    return [cell.name for cell in grid(sweep)]


def test_arms_and_axes_are_crossed_in_their_order():
    sweep = SweepConfig(
        settings={"trainer.group_size": 4},
        arms={"a": {"algorithm.use": "grpo"}, "b": {"algorithm.use": "nft"}},
        axes={"sampler.noise_level": [0.3, 0.5], "trainer.learning_rate": [1e-4]},
    )
    cells = list(grid(sweep))
    assert [cell.name for cell in cells] == [
        "a, noise_level=0.3, learning_rate=0.0001",
        "a, noise_level=0.5, learning_rate=0.0001",
        "b, noise_level=0.3, learning_rate=0.0001",
        "b, noise_level=0.5, learning_rate=0.0001",
    ]
    assert cells[3].settings == {
        "trainer.group_size": 4,
        "algorithm.use": "nft",
        "sampler.noise_level": 0.5,
        "trainer.learning_rate": 1e-4,
    }
    assert cells[3].factors == {"arm": "b", "sampler.noise_level": 0.5, "trainer.learning_rate": 1e-4}


def test_an_arm_wins_over_the_settings_of_all():
    sweep = SweepConfig(settings={"algorithm.use": "grpo"}, arms={"a": {"algorithm.use": "nft"}, "b": {}})
    assert [cell.settings["algorithm.use"] for cell in grid(sweep)] == ["nft", "grpo"]


def test_keys_whose_last_parts_are_alike_keep_their_whole_names():
    assert names(SweepConfig(axes={"a.seed_s": [1], "b.seed_s": [2]})) == ["a.seed_s=1, b.seed_s=2"]


def test_a_sweep_of_seeds_alone_has_one_cell():
    assert names(SweepConfig()) == ["base"]


def test_a_cells_folder_is_a_plain_file_name():
    (cell,) = grid(SweepConfig(arms={"+ RL: 8 x 12/é": {}}))
    assert cell.folder == "+_RL_8_x_12_é"


@pytest.mark.parametrize(
    ("words", "axes", "settings", "seeds"),
    [
        (
            ["algorithm=grpo,nft", "sampler.rule=cps,flow_sde", "seeds=3"],
            {"algorithm.use": ["grpo", "nft"], "sampler.rule": ["cps", "flow_sde"]},
            {},
            [0, 1, 2],
        ),
        (["seeds=0,7"], {}, {}, [0, 7]),
        (["seeds=[5]", "trainer.learning_rate=1e-4"], {}, {"trainer.learning_rate": 1e-4}, [5]),
        (["trainer.betas=[0.9,0.99],[0.8,0.9]"], {"trainer.betas": [[0.9, 0.99], [0.8, 0.9]]}, {}, [0, 1, 2]),
        (
            ["trainer.ema_decay=null,0.9", "sampler.same_noise=false"],
            {"trainer.ema_decay": [None, 0.9]},
            {"sampler.same_noise": False},
            [0, 1, 2],
        ),
    ],
)
def test_words_are_axes_settings_and_seeds(words, axes, settings, seeds):
    sweep = inline.load(None, words)
    assert (sweep.axes, sweep.settings, sweep.seeds) == (axes, settings, seeds)


def test_words_win_over_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("settings: {sampler.rule: cps}\naxes: {trainer.group_size: [4, 8]}\nseeds: [0]\n")
    sweep = inline.load(str(path), ["sampler.rule=cps,flow_sde", "trainer.group_size=6", "budget=null"])
    assert sweep.axes == {"sampler.rule": ["cps", "flow_sde"]}
    assert sweep.settings == {"trainer.group_size": 6}
    assert sweep.seeds == [0]


def test_ranges_are_for_samplers_that_draw():
    axes = {"trainer.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}, "trainer.group_size": [4, 8]}
    sweep = SweepConfig(axes=axes, sampler="random", budget=5)
    assert sweep.parsed_axes["trainer.learning_rate"] == Range(low=1e-5, high=1e-3, log=True)
    with pytest.raises(ConfigError, match=r"learning_rate is a range, of which a grid cannot have every"):
        SweepConfig(axes=axes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sampler.rule="], "'sampler.rule=': sampler.rule has no value; list some"),
        (["sampler.rul=cps,ode"], "unknown key 'sampler.rul'; did you mean 'rule'?"),
        (["smapler.rule=cps,ode"], "unknown key 'smapler.rule'; did you mean 'sampler'?"),
        (["seed=1,2"], "unknown key 'seed'; did you mean 'seeds'?"),
        (["seeds=0"], "seeds must have at least one"),
        (["seeds=1,1"], "seeds must be different numbers of 0 or more; got [1, 1]"),
        (["sampler.rule"], "'sampler.rule' is neither an axis nor a setting"),
        (["sampler.rule=cps,cps"], "axes.sampler.rule has cps twice"),
        (["trainer.group_size=4,one"], "cell 'group_size=one': 'trainer.group_size=\"one\"'"),
        (["algorithm=nft,grop"], "did you mean 'grpo'?"),
        (["sampler.rule=cps,ode"], "cell 'rule=ode': grpo trains stochastic steps"),
        (["sampler.rule=cps", "baseline=rule=cps"], "baseline 'rule=cps' is no cell of this sweep"),
        (["metric=brihgt"], "metric 'brihgt' is not measured in cell 'base'; did you mean 'bright'?"),
        (["budget=3"], "budget is 3, but a grid runs every cell"),
        (["sampler=random", "sampler.rule=cps,flow_sde"], "sampler random needs a budget"),
        (["sampler=grd"], "sampler: Invalid value 'grd'"),
        (["pruner=median"], "pruner median decides by evaluations on the way, of which cell 'base' has none"),
        (["evaluation.num_scenes=8,9"], "have evaluation.num_scenes 9 and 8, so that"),
        (["rewards.bright.weight=1,x"], "cell 'weight=x'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(words, message, tmp_path):
    with pytest.raises(ConfigError) as error:
        Plan(inline.load(None, [f"config={toy_config(tmp_path)}", *prefixed(words)])).check()
    assert message in str(error.value)


def prefixed(words):
    return words if any(word.startswith("metric=") for word in words) else ["metric=bright", *words]


def test_an_axis_and_an_arm_may_not_both_set_a_key():
    with pytest.raises(ConfigError, match=r"arms.a and axes both set sampler.rule: remove it from one"):
        SweepConfig(arms={"a": {"sampler.rule": "cps"}}, axes={"sampler.rule": ["cps"]})


def test_a_metric_that_cells_measure_in_different_ways_is_refused(tmp_path):
    sweep = SweepConfig(
        config=str(toy_config(tmp_path, "Gated")),
        metric="bright",
        axes={"rewards.bright.config.gate": ["a", "b"]},
    )
    with pytest.raises(ConfigError, match=r"measure 'bright' in different ways"):
        Plan(sweep).check()


def test_what_a_sweep_needs_is_asked_for_by_what_makes_it(tmp_path):
    sweep = SweepConfig(config=str(toy_config(tmp_path)), metric="bright", needs={"absent/x": "run make x"})
    with pytest.raises(ConfigError, match=r"absent/x is not there, and this sweep needs it; run make x"):
        Plan(sweep).check()


def test_the_baseline_is_the_first_cell_unless_named():
    assert baseline(SweepConfig(), ["a", "b"]) == "a"
    assert baseline(SweepConfig(baseline="b"), ["a", "b"]) == "b"


def test_a_cells_overrides_say_its_settings_exactly(tmp_path):
    sweep = SweepConfig(
        config=str(toy_config(tmp_path)),
        settings={"trainer.learning_rate": 1e-5, "trainer.betas": [0.8, 0.9], "trainer.ema_decay": None},
        metric="bright",
    )
    plan = Plan(sweep)
    trainer = plan.run(plan.cells[0], 3).trainer
    assert (trainer.learning_rate, trainer.betas, trainer.ema_decay) == (1e-5, (0.8, 0.9), None)
    assert plan.run(plan.cells[0], 3).seed == 3
    assert json.loads(json.dumps(plan.content)) == Plan(sweep).content
