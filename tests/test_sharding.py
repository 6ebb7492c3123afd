from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from benchmarks.two_processes import FSDP2
from rlnsp import sharding
from rlnsp.distributed import Ranks
from rlnsp.settings import ConfigError
from rlnsp.sharding import Sharding
from rlnsp.testing import ToyPolicy

CONFIGS = sorted((Path(__file__).parents[1] / "configs" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_says_what_the_shipped_config_means(path, monkeypatch):
    args, *_ = _validate_launch_command(
        launch_command_parser().parse_args(["--config_file", str(path), "-m", "rlnsp"])
    )
    for name, value in prepare_multi_gpu_env(args).items():
        monkeypatch.setenv(name, value)
    assert args.num_processes == 8
    assert args.module
    expected = {"ddp": None, "fsdp2": Sharding(), "fsdp2_zero2": Sharding(reshard=False)}
    assert sharding.asked_for() == expected[path.stem]


def test_there_are_configs():
    assert [path.stem for path in CONFIGS] == ["ddp", "fsdp2", "fsdp2_zero2"]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            {"ACCELERATE_USE_DEEPSPEED": "true"},
            r"DeepSpeed, .* pickles.* ZeRO-3 take .*/fsdp2\.yaml, .*ZeRO-2 .*/fsdp2_zero2\.yaml",
        ),
        ({"ACCELERATE_USE_FSDP": "true"}, "the first FSDP"),
    ],
)
def test_what_is_not_supported_is_refused(said, message, monkeypatch):
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        sharding.asked_for()


def test_weights_may_wait_on_the_cpu_and_stay_after_a_forward(monkeypatch):
    settings = {**FSDP2, "FSDP_OFFLOAD_PARAMS": "True", "FSDP_RESHARD_AFTER_FORWARD": "false"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert sharding.asked_for() == Sharding(reshard=False, offload=True)


@pytest.mark.parametrize(
    ("scenes", "heldout", "which"), [(3, 4, "scenes_per_iteration: 3"), (4, 5, "scenes: 5")]
)
def test_scenes_that_cannot_be_shared_evenly_are_refused_where_weights_are(scenes, heldout, which):
    ranks = Ranks(rank=1, count=2, sharding=Sharding())
    with pytest.raises(ConfigError, match=f"{which} cannot be shared evenly by 2 processes"):
        ranks.check(scenes, heldout)
    ranks.check(4, 2)
    Ranks(rank=1, count=2).check(3, 5)


def test_a_policy_that_does_not_say_what_may_be_spread_is_refused():
    with pytest.raises(ConfigError, match=r"ToyPolicy has no shards\(\)"):
        Sharding().shard(ToyPolicy(ToyPolicy.Config()), 2)
