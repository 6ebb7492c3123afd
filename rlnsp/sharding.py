"""Weights that several devices hold together, as accelerate's config asks for it: torch's FSDP2.

RL spreads what is frozen.  What it trains stays whole on each of them: it is small, its gradients are added
up as ever, and averages, optimiser and files know nothing of it.  Stages 1 and 2 spread what they train, too
(``pretrain.local_shards``).  DeepSpeed is in ``rlnsp.zero``.
"""

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.nn import Parameter

from rlnsp import zero
from rlnsp.protocols import Policy, Shards
from rlnsp.settings import ConfigError
from rlnsp.zero import Zero


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """How."""

    reshard: bool = True
    """Let go of the others' part of a module after its forward, and fetch it again for its backward."""
    offload: bool = False
    """Keep the own part on the CPU."""
    frozen = True
    """Frozen weights are spread."""

    def shard(self, policy: Policy, count: int) -> None:
        """Spread the frozen weights of a policy over ``count`` processes, all of which call this.

        From then on each must call the network as often as any other.

        Raises:
            ConfigError: the policy does not say which modules may be spread.
        """
        if not isinstance(policy, Shards):
            raise ConfigError(
                f"accelerate's config asks for FSDP, but the policy {type(policy).__name__} has no shards(): "
                "give it one (rlnsp.protocols.Shards), or start it by a config without FSDP"
            )
        trained = {value for _, value in policy.named_trainable()}
        self.spread(policy.shards(), count, next(iter(trained)).device.type, whole=trained)

    def spread(
        self, modules: Sequence[nn.Module], count: int, device: str, whole: set[Parameter]
    ) -> list[FSDPModule]:
        """Spread the weights of modules over ``count`` processes, all of which call this.

        A gradient that reaches them is the sum over the processes.

        Args:
            modules: the inner before the outer.
            count: of all processes.
            device: where the modules compute.
            whole: parameters that each keeps as they are.

        Returns:
            The modules.
        """
        # Of LTX's output, which is a view; nothing here writes into it.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        mesh = init_device_mesh(device, (count,))
        spread = []
        for module in modules:
            made = fully_shard(
                module,
                mesh=mesh,
                reshard_after_forward=self.reshard,
                ignored_params=whole,
                offload_policy=CPUOffloadPolicy() if self.offload else OffloadPolicy(),
            )
            made.set_gradient_divide_factor(1.0)
            made.set_force_sum_reduction_for_comms(True)  # gloo has no other
            spread.append(made)
        return spread


def asked_for() -> Sharding | Zero | None:
    """What accelerate launch says in the environment; None: every process holds all weights.

    Raises:
        ConfigError: something that is not supported.
    """
    said = {name: value.lower() for name, value in os.environ.items()}
    if said.get("ACCELERATE_USE_DEEPSPEED") == "true":
        return zero.asked_for(os.environ)
    if said.get("ACCELERATE_USE_FSDP") != "true":
        return None
    if said.get("FSDP_VERSION", "1") != "2":
        raise ConfigError("accelerate's config asks for the first FSDP: set fsdp_config.fsdp_version to 2")
    return Sharding(
        reshard=said.get("FSDP_RESHARD_AFTER_FORWARD", "true") == "true",
        offload=said.get("FSDP_OFFLOAD_PARAMS") == "true",
    )


def is_of_another(error: RuntimeError) -> bool:
    """Whether a sharded network failed since another process has ended."""
    told = type(error) is RuntimeError or isinstance(error, dist.DistError)
    return told and re.search("gloo|nccl|connection", str(error), re.IGNORECASE) is not None
