"""One clip's tokens on several devices: Ulysses (arXiv:2309.14509), by diffusers.

Each process computes a share of the tokens, and in self-attention all tokens of a share of the heads.  The
text stays whole.  diffusers' own plan for LTX shares it out too, and does not work: of the heads the text's
mask has all, and the gradient of its keys is given the shape of the clip's.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch.distributed as dist
from diffusers.hooks.context_parallel import apply_context_parallel
from diffusers.models._modeling_parallel import ContextParallelConfig, ContextParallelInput, ParallelConfig
from peft import PeftModel
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from rlnsp.settings import require


def split_tokens(model: PeftModel, num_tokens: int, count: int, *, timestep_a_token: bool = False) -> None:
    """Let each ``count`` processes in a row make every forward of the DiT together; all processes call this.

    Args:
        model: with an adapter.
        num_tokens: of a clip.
        count: of processes.
        timestep_a_token: the DiT is given (B, N) timesteps, which are shared out as the tokens are.

    Raises:
        ConfigError: tokens or heads cannot be shared evenly.
    """
    bare: Any = model.get_base_model()
    heads = bare.config["num_attention_heads"]
    for what, number in (("tokens a clip", num_tokens), ("attention heads", heads)):
        require(
            number % count == 0,
            f"trainer.context_parallel is {count}, but the policy has {number} {what}, which {count} cannot "
            "share evenly: give a divisor",
        )
    device, processes = next(bare.parameters()).device, dist.get_world_size()
    mesh = init_device_mesh(
        device.type, (processes // count, 1, count), mesh_dim_names=("clips", "ring", "ulysses")
    )
    config = ContextParallelConfig(ulysses_degree=count)
    parallel = ParallelConfig(context_parallel_config=config)
    # What ``enable_parallelism`` does besides is to ask for an accelerator.
    parallel.setup(dist.get_rank(), processes, device, mesh=mesh)
    blocks: list[Any] = [
        block for part in bare.children() if isinstance(part, nn.ModuleList) for block in part
    ]
    for block in blocks:
        block.attn1.processor._parallel_config = parallel
    apply_context_parallel(bare, config, _plan(bare, timestep_a_token))
    # Between diffusers and torch, at every call.
    warnings.filterwarnings("ignore", message=".*all_gather_tensor. is deprecated", category=FutureWarning)


def _plan(bare: Any, timestep_a_token: bool) -> dict[str, Any]:
    """diffusers' plan without what it says of the text; LTX's says nothing of a timestep a token."""
    own = dict(bare._cp_plan)
    whole = own.pop("", {})
    clip = {name: how for name, how in whole.items() if name == "hidden_states"}
    if timestep_a_token:
        clip["timestep"] = ContextParallelInput(split_dim=1, expected_dims=2, split_output=False)
    return own | ({"": clip} if clip else {})
