import re
from dataclasses import dataclass

import pytest

from rlnsp import config
from rlnsp.config import ConfigError


def run_file(tmp_path, plugin_file, extra=""):
    """A run whose plug-ins are cheap to import."""
    path = tmp_path / "run.yaml"
    path.write_text(
        f"policy: {{use: '{plugin_file}:Mine'}}\n"
        f"algorithm: {{use: '{plugin_file}:Mine'}}\n"
        "rewards:\n"
        f"  mine: {{use: '{plugin_file}:Mine'}}\n"
        f"  motion: {{use: '{plugin_file}:plain', weight: 0.2}}\n" + extra
    )
    return path


@pytest.fixture
def path(tmp_path, plugin_file):
    return run_file(tmp_path, plugin_file)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sede=3", "unknown key 'sede'; did you mean 'seed'?; allowed here: policy, rewards,"),
        ("trainer.groupsize=3", "unknown key 'trainer.groupsize'; did you mean 'group_size'?"),
        ("rewards.mine.wieght=2", "unknown key 'rewards.mine.wieght'; did you mean 'weight'?"),
        ("trainer.group_size=1", "trainer.group_size must be at least 2 to give a baseline; got 1"),
        (
            "trainer.group_size=many",
            "trainer.group_size: Value 'many' of type 'str' could not be converted to Integer",
        ),
        ("trainer.group_size=1.5", "trainer.group_size: Value '1.5' of type 'float'"),
        ("trainer=3", "a value stands where a section belongs"),
        ("trainer.micro_batch_size=0", "trainer.micro_batch_size must be at least 1; got 0"),
        ("trainer.learning_rate=0", "trainer.learning_rate must be positive; got 0"),
        ("trainer.betas=[0.9,1]", "trainer.betas must be in [0, 1); got (0.9, 1.0)"),
        ("trainer.ema_decay=1", "trainer.ema_decay must be between 0 and 1"),
        ("trainer.max_drop_share=1", "trainer.max_drop_share must be in [0, 1)"),
        (
            "sampler.rule=sde",
            "sampler.rule: Invalid value 'sde', expected one of ['ode', 'flow_sde', 'dance_sde', 'cps']",
        ),
        ("sampler.num_steps=1", "sampler.num_steps must be at least 2"),
        ("sampler.noise_level=1.1", "sampler.noise_level must be at most 1 with rule cps"),
        ("sampler.noise_level=-0.1", "sampler.noise_level must be 0 or more; got -0.1"),
        ("sampler.std_cap=0", "sampler.std_cap must be positive, or null for none; got 0"),
        ("sampler.guidance_scale=-1", "sampler.guidance_scale must be 0 or more; got -1"),
        ("sampler.train_guidance_scale=-1", "sampler.train_guidance_scale must be 0 or more; got -1"),
        ("sampler.window.start=-1", "sampler.window.start must be 0 or more; got -1"),
        ("sampler.window.size=0", "sampler.window.size must be at least 1"),
        (
            "sampler.window.start=5",
            "covers steps 5 to 7, but of 8 steps (0 to 7) the last that cps may train is 6",
        ),
        (
            "sampler.num_steps=3",
            "covers steps 0 to 2, but of 3 steps (0 to 2) the last that cps may train is 1",
        ),
        ("evaluation.every=-1", "evaluation.every must be 0 or more; got -1"),
        ("evaluation.num_scenes=0", "evaluation.num_scenes must be at least 1; got 0"),
        ("evaluation.num_steps=0", "evaluation.num_steps must be at least 1"),
        ("evaluation.guidance_scale=-2", "evaluation.guidance_scale must be 0 or more"),
        ("seed=-1", "seed must be 0 or more; got -1"),
        ("rewards.mine.use=absent", "rewards.mine.use: there is no 'absent' among the installed rewards"),
        (
            "policy.use=unifeid",
            "policy.use: there is no 'unifeid' among the installed policies; did you mean 'unified'?",
        ),
        (
            "algorithm.use=gpro",
            "algorithm.use: there is no 'gpro' among the installed algorithms; did you mean 'grpo'?",
        ),
        ("rewards.mine.config.targte=0", "rewards.mine.config: unknown key 'targte'; did you mean 'target'?"),
        ("rewards.mine.config.target=5", "rewards.mine.config: target must be in [0, 1]; got 5"),
        ("rewards.mine.config.target=abc", "rewards.mine.config: target: Value 'abc' of type 'str'"),
        ("rewards.motion.config.speed=2", "plain has no settings; got speed; remove them"),
        (
            "rewards.third.weight=1",
            "missing: rewards.third.use; set it in the file or as rewards.third.use=VALUE",
        ),
        ("rewards.mine.on_failure=zero", "expected one of ['raise', 'drop']"),
        ("seed", "'seed' is not an override; write key.key=value"),
        ("=3", "'=3' is not an override"),
        ("a..b=3", "'a..b=3' is not an override"),
        ("trainer.betas=[0.9", "'trainer.betas=[0.9': the value is not valid YAML"),
        ("data.train=${oc.env:HOME}", "is an interpolation, which configs may not hold"),
    ],
)
def test_a_bad_setting_is_refused_in_one_line_with_the_remedy(override, message, path):
    with pytest.raises(ConfigError, match=re.escape(message)) as refusal:
        config.load(path, [override])
    assert "\n" not in str(refusal.value)


def test_the_window_may_reach_the_last_step_only_where_steps_are_deterministic(path):
    run = config.load(path, ["sampler.rule=ode", "sampler.window.start=5"])
    assert run.sampler.window.start + run.sampler.window.size == run.sampler.num_steps


def test_the_window_may_end_one_before_the_last_step(path):
    assert config.load(path, ["sampler.window.start=4"]).sampler.window.start == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n", "holds a list; a config is a mapping"),
        ("seed: [1\n", "not valid YAML"),
        ("seed: 1\nseed: 2\n", "not valid YAML: .*found duplicate key"),
        ("seed: 1\n", "missing: .*policy"),
        (
            "policy: {use: x}\nalgorithm: {use: x}\nrewards: {}\n",
            "rewards must hold at least one .*; got none",
        ),
    ],
)
def test_a_bad_file_is_named(text, message, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"bad.yaml: {message}"):
        config.load(path)


def test_an_absent_file_or_name_is_named(tmp_path):
    with pytest.raises(ConfigError, match="absent.yaml: there is no such file"):
        config.load(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match=r"did you mean 'world'\?; shipped: .*world"):
        config.load("wrld")


def test_an_override_wins_and_keeps_its_type(path):
    run = config.load(path, ["rewards.mine.weight=3e-1", "trainer.learning_rate=1e-4", "seed=7", "seed=8"])
    assert (run.rewards["mine"].weight, run.trainer.learning_rate, run.seed) == (0.3, 1e-4, 8)


def test_scientific_notation_in_a_file_is_a_number(tmp_path, plugin_file):
    path = run_file(tmp_path, plugin_file, extra="trainer: {learning_rate: 1e-4}\n")
    assert config.load(path).trainer.learning_rate == 1e-4


def test_a_plugins_defaults_are_filled_in(path):
    assert config.load(path).rewards["mine"].config == {"target": 0.5, "sizes": [1, 2]}


def test_a_resolved_config_reads_back_as_itself(tmp_path, path):
    run = config.load(
        path, ["rewards.mine.config.target=0.25", "trainer.ema_decay=0.9", "sampler.std_cap=1e-3"]
    )
    (tmp_path / "again.yaml").write_text(config.to_yaml(run))
    assert config.load(tmp_path / "again.yaml") == run


def test_code_in_files_is_named_absolutely_so_that_a_run_resumes_from_anywhere(tmp_path, path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = config.load(path, rewards=["mine.py:Mine"])
    assert run.rewards["Mine"].use == f"{tmp_path}/mine.py:Mine"


def test_reward_flags_replace_the_configs_rewards(path, plugin_file):
    assert list(config.load(path, rewards=[f"{plugin_file}:Mine"]).rewards) == ["Mine"]


def test_a_reward_flag_keeps_what_the_config_says_of_that_name(path):
    assert config.load(path, rewards=["motion"]).rewards["motion"].weight == 0.2
    assert config.load(path, rewards=["motion=-0.5"]).rewards["motion"].weight == -0.5


def test_a_reward_flag_takes_a_weight_after_a_file(path, plugin_file):
    assert config.load(path, rewards=["mine", f"{plugin_file}:plain=0.5"]).rewards["plain"].weight == 0.5


def test_an_override_wins_over_a_reward_flag(path):
    assert config.load(path, ["rewards.motion.weight=3"], ["motion=1"]).rewards["motion"].weight == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["mine=heavy"], "--reward mine=heavy: the weight 'heavy' is not a number"),
        (["=1"], "--reward =1: names no reward"),
        (["mine", "mine=2"], "--reward mine=2: 'mine' is given twice"),
        (["mine=0"], "rewards must hold at least one of a weight other than 0"),
        (["nsp_rewrd"], "did you mean 'nsp_reward'?"),
    ],
)
def test_a_bad_reward_flag_is_refused(flags, message, path):
    with pytest.raises(ConfigError, match=re.escape(message)):
        config.load(path, rewards=flags)


def test_another_plug_in_in_a_slot_does_not_get_the_settings_of_the_one_that_was_there(plugin_file, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        f"policy: {{use: '{plugin_file}:Mine'}}\n"
        "algorithm: {use: nft, config: {beta: 0.5, num_levels: 2}}\n"
        f"rewards: {{mine: {{use: '{plugin_file}:Mine', config: {{target: 0.25}}}}}}\n"
    )
    assert config.load(path, ["algorithm.use=grpo"]).algorithm.config["clip"] == 1e-4
    for same in (
        "algorithm.use=nft",
        config.override("algorithm.use", "nft"),
        "algorithm.use='nft'",
        "algorithm={use: nft}",
    ):
        assert config.load(path, [same]).algorithm.config["beta"] == 0.5
    assert "beta" not in config.load(path, ["algorithm={use: grpo}"]).algorithm.config
    run = config.load(path, ["algorithm.config.num_levels=1", "algorithm.use=awm"])
    assert run.algorithm.config["num_levels"] == 1
    changed = config.load(path, [f"rewards.mine.use={plugin_file}:plain"])
    assert changed.rewards["mine"].config == {}


def test_another_schema_is_read_and_checked_the_same_way(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Stage:
        num_steps: int = 10

    path = tmp_path / "stage.yaml"
    path.write_text("num_steps: 3\n")
    assert config.load_typed(Stage, path, ["num_steps=4"]) == Stage(num_steps=4)
    with pytest.raises(ConfigError, match="did you mean 'num_steps'"):
        config.load_typed(Stage, path, ["num_step=4"])
