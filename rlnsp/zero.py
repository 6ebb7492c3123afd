"""Weights, gradients and optimiser states that several devices hold together: DeepSpeed's ZeRO-2 and ZeRO-3.

The stages spread by it what they train (``pretrain.zero_shards``).  RL spreads what is frozen, which ZeRO-3
does and ZeRO-2 does not; what it trains stays whole on each device, as under FSDP2 (``rlnsp.sharding``).
DeepSpeed's own checkpoints are pickles, and are neither written nor read.
"""

import io
import logging
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from rlnsp.protocols import Policy, Shards
from rlnsp.settings import ConfigError

WHOLE_BELOW = 10**5
"""Weights of fewer numbers stay whole once they are fetched, by ZeRO-3."""
AHEAD = 2**27
"""Numbers that are fetched ahead, or kept for a use that is as near, by ZeRO-3; and of gradients that are
exchanged at once, for which there is a buffer: 0.5 GB.  DeepSpeed's own measures are for models of more."""


@dataclass(frozen=True, kw_only=True)
class Zero:
    """How."""

    stage: Literal[2, 3]
    """2: gradients and optimiser states of what is trained; 3: all weights, too."""

    @property
    def frozen(self) -> bool:
        """Whether frozen weights are spread."""
        return self.stage == 3

    def shard(self, policy: Policy, count: int) -> None:
        """Spread the frozen weights of a policy over ``count`` processes, which are all and all call this.

        From then on each must call the network as often as any other.

        Raises:
            ConfigError: the policy does not say which modules may be spread, or one of them has trained and
                frozen weights of its own; or DeepSpeed is not installed.
        """
        if not isinstance(policy, Shards):
            raise ConfigError(
                f"accelerate's config asks for ZeRO-3, but the policy {type(policy).__name__} has no "
                "shards(): give it one (rlnsp.protocols.Shards), or start it by a config without ZeRO-3"
            )
        modules = policy.shards()
        within = {id(inner) for module in modules for inner in module.modules() if inner is not module}
        trained = {id(value) for _, value in policy.named_trainable()}
        for module in modules:
            if id(module) not in within:
                with _hidden(module, trained):
                    self.engine(module)

    def engine(
        self,
        module: nn.Module,
        optimizer: Optimizer | None = None,
        max_grad_norm: float = 0.0,
        *,
        at_once: bool = False,
    ) -> Any:
        """DeepSpeed's engine of a module, whose weights it takes over; all processes call this.

        Args:
            module: what is spread.
            optimizer: of the module's trained parameters; it steps on the mean of the processes' gradients.
            max_grad_norm: of the whole gradient, which is scaled down to it; 0 leaves it.
            at_once: gradients are given between backward passes, for a step each time; else each backward
                pass adds to them, until the caller steps.

        Raises:
            ConfigError: DeepSpeed is not installed.
        """
        deepspeed = _deepspeed()
        settings = {
            "train_micro_batch_size_per_gpu": 1,  # it counts samples by it, and nothing else
            "managed_gradient_accumulation": at_once,  # not: a step is when step() is called
            "gradient_clipping": max_grad_norm,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {
                "stage": self.stage,
                "sub_group_size": 10**12,  # the optimiser sees all weights of a group at once
                "memory_efficient_linear": False,  # else it replaces torch's, which rounds differently
                "stage3_param_persistence_threshold": WHOLE_BELOW,
                "reduce_bucket_size": AHEAD,
                "stage3_prefetch_bucket_size": AHEAD,
                "stage3_max_live_parameters": 2 * AHEAD,
                "stage3_max_reuse_distance": AHEAD,
            },
        }
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            engine, *_ = deepspeed.initialize(
                model=module, optimizer=optimizer, config=settings, dist_init_required=False
            )
        return engine


def asked_for(said: Mapping[str, str]) -> Zero:
    """What accelerate launch says of DeepSpeed in the environment ``said``.

    Raises:
        ConfigError: something that is not supported.
    """
    for name, reason in _REFUSED.items():
        given = said.get(f"ACCELERATE_{name}", "none")
        if given.lower() != "none" and (name, given) != ("GRADIENT_ACCUMULATION_STEPS", "1"):
            raise ConfigError(f"accelerate's config: deepspeed_config: {reason}; got {given}")
    stage = said.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "nothing")
    if stage not in ("2", "3"):
        raise ConfigError(
            f"accelerate's config: deepspeed_config.zero_stage is {stage}; give 2 or 3, or take "
            "configs/accelerate/ddp.yaml, by which each process has everything"
        )
    return Zero(stage=2 if stage == "2" else 3)


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
_REFUSED = {
    "DEEPSPEED_CONFIG_FILE": "deepspeed_config_file is not read: give zero_stage, 2 or 3",
    "DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": _OFFLOAD,
    "DEEPSPEED_OFFLOAD_PARAM_DEVICE": _OFFLOAD,
    "GRADIENT_CLIPPING": "gradient_clipping is the run's to say: max_grad_norm",
    "GRADIENT_ACCUMULATION_STEPS": "gradient_accumulation_steps is the run's to say: micro_batch_size",
}


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
    # A library for CPUs, which it would compile at once, for up to a minute, and which nothing here needs.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*torch.distributed.* is deprecated", category=FutureWarning)
    return deepspeed
