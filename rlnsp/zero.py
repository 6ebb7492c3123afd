"""Weights, gradients and optimiser states that several devices hold together: DeepSpeed's ZeRO-2 and ZeRO-3.

The stages spread by it what they train (``pretrain.zero_shards``).  RL spreads what is frozen, which ZeRO-3
does and ZeRO-2 does not; what it trains stays whole on each device, as under FSDP2 (``rlnsp.sharding``).
DeepSpeed's own checkpoints are pickles, and are neither written nor read.
"""

import io
import logging
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from rlnsp.protocols import Policy, Shards
from rlnsp.settings import ConfigError


@dataclass(frozen=True, kw_only=True)
class Zero:
    """How."""

    stage: int
    """2: gradients and optimiser states of what is trained; 3: all weights, too."""

    def __post_init__(self) -> None:
        if self.stage not in (2, 3):
            raise ConfigError(
                f"accelerate's config: deepspeed_config.zero_stage is {self.stage}; give 2 or 3, or take "
                "configs/accelerate/ddp.yaml, by which each process has all weights"
            )

    @property
    def frozen(self) -> bool:
        """Whether frozen weights are spread."""
        return self.stage == 3

    def shard(self, policy: Policy, count: int) -> None:
        """Spread the frozen weights of a policy over the processes, all of which call this.

        From then on each must call the network as often as any other.

        Raises:
            ConfigError: the policy does not say which modules may be spread, or one of them has trained and
                frozen weights of its own; or DeepSpeed is not installed.
        """
        if not isinstance(policy, Shards):
            raise ConfigError(
                f"accelerate's config asks for ZeRO-3, but the policy {type(policy).__name__} has no "
                "shards(): give it one (rlnsp.protocols.Shards), or start it by a config without DeepSpeed"
            )
        modules = policy.shards()
        within = {id(inner) for module in modules for inner in module.modules() if inner is not module}
        trained = {id(value) for _, value in policy.named_trainable()}
        for module in modules:
            if id(module) not in within:
                with _hidden(module, trained):
                    self.engine(module, count)

    def engine(
        self, module: nn.Module, count: int, optimizer: Optimizer | None = None, max_grad_norm: float = 0.0
    ) -> Any:
        """DeepSpeed's engine of a module, whose weights it takes over; all processes call this.

        Args:
            module: what is spread.
            count: of processes.
            optimizer: of the module's trained parameters; where there is one, a gradient is the sum over the
                processes if the loss is ``count`` times this one's part.
            max_grad_norm: of the whole gradient, which is scaled down to it; 0 leaves it.

        Raises:
            ConfigError: DeepSpeed is not installed.
        """
        deepspeed = _deepspeed()
        settings = {
            "train_micro_batch_size_per_gpu": 1,  # it counts samples by it, and nothing else
            "managed_gradient_accumulation": False,  # a step is when step() is called
            "gradient_clipping": max_grad_norm,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {
                "stage": self.stage,
                "sub_group_size": 10**12,  # the optimiser sees all weights of a group at once
                "memory_efficient_linear": False,  # else it replaces torch's, which rounds differently
            },
        }
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            engine, *_ = deepspeed.initialize(
                model=module, optimizer=optimizer, config=settings, dist_init_required=False
            )
        return engine


def norm_of(engine: Any) -> float:
    """The whole gradient's norm before the engine's last step, which was none if it is not finite."""
    found: Tensor | float = engine.get_global_grad_norm()
    return float(found)


def asked_for(said: dict[str, str]) -> Zero:
    """What accelerate launch says of DeepSpeed in the environment ``said``, in lower case.

    Raises:
        ConfigError: something that is not supported.
    """
    refused = {
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": "deepspeed_config_file is not read: give zero_stage, 2 or 3",
        "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": _OFFLOAD,
        "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": _OFFLOAD,
        "ACCELERATE_GRADIENT_CLIPPING": "gradient_clipping is the run's to say: max_grad_norm",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (
            "gradient_accumulation_steps is the run's to say: micro_batch_size"
        ),
    }
    for name, reason in refused.items():
        if said.get(name, "none") not in ("none", "1"):
            raise ConfigError(f"accelerate's config: deepspeed_config: {reason}; got {said[name]}")
    stage = said.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "none")
    return Zero(stage=int(stage) if stage.isdecimal() else 0)


@contextmanager
def _hidden(module: nn.Module, trained: Collection[int]) -> Iterator[None]:
    """While open, submodules of trained weights are not there: DeepSpeed leaves them as they are."""
    before = []
    try:
        for outer in [*module.modules()]:
            before.append((outer, dict(outer._modules)))
            for name, inner in before[-1][1].items():
                kinds = {id(value) in trained for value in inner.parameters(recurse=False)} if inner else {}
                if len(kinds) == 2:
                    raise ConfigError(
                        f"accelerate's config asks for ZeRO-3, but {name}, a {type(inner).__name__}, has "
                        "trained weights beside frozen ones: take configs/accelerate/fsdp2.yaml"
                    )
                if kinds == {True}:
                    del outer._modules[name]
        yield
    finally:
        for outer, modules in before:
            outer._modules.clear()
            outer._modules.update(modules)


_OFFLOAD = (
    "weights and states that wait on the CPU are not supported with DeepSpeed: take "
    "configs/accelerate/fsdp2.yaml with fsdp_offload_params: true"
)


def _deepspeed() -> Any:
    logging.disable(logging.WARNING)  # it says which accelerator it found
    try:
        import deepspeed
    except ImportError as error:
        raise ConfigError(
            "accelerate's config asks for DeepSpeed, which is not installed: pip install 'rlnsp[deepspeed]', "
            "or take configs/accelerate/fsdp2.yaml"
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*torch.distributed.* is deprecated", category=FutureWarning)
    return deepspeed
