import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from torch import nn
from torch.optim import SGD

from benchmarks.two_processes import FSDP2, ZERO2, ZERO3
from rlnsp import sharding
from rlnsp.distributed import Ranks
from rlnsp.settings import ConfigError
from rlnsp.sharding import Sharding
from rlnsp.testing import ToyPolicy
from rlnsp.zero import Zero
from rlnsp.zero_optimizer import ZeroOptimizer

MEANT = {
    "ddp": None,
    "deepspeed_zero2": Zero(stage=2),
    "deepspeed_zero3": Zero(stage=3),
    "fsdp2": Sharding(),
    "fsdp2_zero2": Sharding(reshard=False),
}
CONFIGS = sorted((Path(__file__).parents[1] / "configs" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_says_what_the_shipped_config_means(path, monkeypatch):
    args, *_ = _validate_launch_command(
        launch_command_parser().parse_args(["--config_file", str(path), "-m", "rlnsp"])
    )
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ""  # as launch_command sets it
        command, told = prepare_deepspeed_cmd_env(args)
        assert command is None  # not DeepSpeed's own launcher
    else:
        told = prepare_multi_gpu_env(args)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert args.num_processes == 8
    assert args.module
    assert sharding.asked_for() == MEANT[path.stem]


def test_there_are_configs():
    assert [path.stem for path in CONFIGS] == sorted(MEANT)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "the first FSDP"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "zero_stage is nothing; give 2 or 3"),
        (ZERO2 | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}, "zero_stage is 1; give 2 or 3"),
        (
            ZERO3 | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": "/My/ds.json"},
            "file is not read.*got /My/",
        ),
        (ZERO3 | {"ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu"}, "fsdp_offload_params: true; got cpu"),
        (ZERO2 | {"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "nvme"}, "on the CPU are not supp.*nvme"),
        (ZERO2 | {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "micro_batch_size; got 4"),
        (ZERO2 | {"ACCELERATE_GRADIENT_CLIPPING": "1.0"}, "max_grad_norm; got 1.0"),
        (ZERO2 | {"ACCELERATE_GRADIENT_CLIPPING": "1"}, "max_grad_norm; got 1"),
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


@pytest.mark.parametrize("how", [Sharding(), Zero(stage=3)])
def test_a_policy_that_does_not_say_what_may_be_spread_is_refused(how):
    with pytest.raises(ConfigError, match=r"ToyPolicy has no shards\(\)"):
        how.shard(ToyPolicy(ToyPolicy.Config()), 2)


def test_a_module_with_trained_and_frozen_weights_of_its_own_is_refused():
    layer = nn.Linear(2, 2)

    class Mixed(ToyPolicy):
        def shards(self):
            return [nn.Sequential(layer)]

        def named_trainable(self):
            yield "layer.bias", layer.bias

    with pytest.raises(ConfigError, match=r"0, a Linear, has trained weights beside frozen ones"):
        Zero(stage=3).shard(Mixed(ToyPolicy.Config()), 2)


def test_without_deepspeed_its_installation_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(ConfigError, match=r"pip install 'rlnsp\[deepspeed\]', or take .*fsdp2\.yaml"):
        Zero(stage=3).engine(nn.Linear(2, 2))


def test_an_optimiser_of_8_bits_is_not_spread():
    with pytest.raises(ConfigError, match=r"trainer\.optimizer=adamw, or take .*fsdp2\.yaml"):
        ZeroOptimizer(SGD([nn.Parameter(torch.ones(1))]), Ranks(0, 2))
