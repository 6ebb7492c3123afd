"""Two teams of two real processes, over gloo, against one: diffusers' own transformers at a small size."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from benchmarks.two_processes import launch
from policies.context_parallel import split_tokens
from policies.lora import add_lora
from rlnsp.distributed import join
from rlnsp.gradient_sum import GradientSum
from rlnsp.settings import ConfigError

TOKENS, TEXT = 12, 6
HEADS: dict[str, Any] = {"num_attention_heads": 4, "attention_head_dim": 12, "num_layers": 2}


def ltx():
    """The DiT, and what a call of it needs; one text is shorter than the other."""
    model = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, cross_attention_dim=48, caption_channels=16, **HEADS
    )
    mask = torch.ones(2, TEXT)
    mask[1, 4:] = 0
    return model, {
        "hidden_states": torch.randn(2, TOKENS, 8),
        "encoder_attention_mask": mask,
        "num_frames": 3,
        "height": 2,
        "width": 2,
    }


def ltx_first():
    """The same with the first of its latent frames given: a timestep a token."""
    model, call = ltx()
    timestep = torch.tensor([[500.0], [300.0]]).repeat(1, TOKENS)
    timestep[:, :4] = 0
    return model, call | {"timestep": timestep}


def wan():
    model = WanTransformer3DModel(
        in_channels=4, out_channels=4, text_dim=16, freq_dim=32, ffn_dim=64, patch_size=(1, 2, 2), **HEADS
    )
    return model, {"hidden_states": torch.randn(2, 4, 3, 4, 4)}


def with_lora(made):
    torch.manual_seed(0)
    bare, call = made()
    model = add_lora(bare, rank=2, alpha=2, targets=["to_q", "to_k", "to_v", "to_out.0"], seed=0)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    call = {"timestep": torch.tensor([500.0, 300.0]), **call}
    return model, call | {"encoder_hidden_states": torch.randn(2, TEXT, 16)}


def compared(path: str) -> int:
    """Write how far the velocity and the sum of the gradients are from those of one process, relatively."""
    ranks, found = join(60.0, team_size=2), {}
    for made, checkpointing in [*product((ltx, wan), (False, True)), (ltx_first, True)]:
        model, call = with_lora(made)
        bare: Any = model.get_base_model()
        if checkpointing:
            bare.enable_gradient_checkpointing()
        values = [value for value in model.parameters() if value.requires_grad]

        def velocity(team, model=model, call=call):
            own = {**call, "hidden_states": call["hidden_states"] * (1 + team)}
            return model(**own, return_dict=False)[0]

        def ended(teams, values=values, velocity=velocity):
            total = GradientSum(values)
            with total.taking():
                for team in teams:
                    v = velocity(team)
                    (v * torch.linspace(0, 1, v.numel()).view_as(v)).sum().backward()
            return total.totals

        with torch.no_grad():
            v = velocity(ranks.team)
        alone, whole = ended([ranks.team]), ended([0, 1])
        split_tokens(model, TOKENS, 2, timestep_a_token=made is ltx_first)
        parts = ended([ranks.team])
        own = max(float((a - b).abs().max()) for a, b in zip(parts, alone, strict=True))
        ranks.add_up(parts)
        far = [(a - b).abs().max() / b.abs().max() for a, b in zip(parts, whole, strict=True)]
        with torch.no_grad():
            apart = float((velocity(ranks.team) - v).abs().max() / v.abs().max())
        found[f"{made.__name__}, checkpointing: {checkpointing}"] = {
            "velocity": apart,
            "gradient": float(max(far)),
            "own gradient": own,
        }
    Path(f"{path}.{ranks.rank}").write_text(json.dumps(found))
    ranks.close()
    return 0


def test_processes_that_share_a_clips_tokens_have_the_velocity_and_gradient_of_one(tmp_path):
    path = str(tmp_path / "found")
    modules = ["tests.policies.test_context_parallel"]
    processes = launch(compared, (path,), tmp_path / "log", 4, preload=modules)
    for process in processes:
        process.join(120)
        process.kill()
    said = [(tmp_path / f"log.{rank}").read_text() for rank in range(4)]
    assert [process.exitcode for process in processes] == [0] * 4, said
    for rank in range(4):
        found = json.loads(Path(f"{path}.{rank}").read_text())
        assert len(found) == 5
        for name, far in found.items():
            assert far["velocity"] < 1e-5, name
            assert far["gradient"] < 1e-5, name
            assert far["own gradient"] > 1e-3, name  # each has but a part of it


@pytest.mark.parametrize(
    ("tokens", "count", "what"), [(10, 4, "10 tokens a clip"), (9, 3, "4 attention heads")]
)
def test_what_cannot_be_shared_evenly_is_refused(tokens, count, what):
    with pytest.raises(ConfigError, match=f"context_parallel is {count}, but the policy has {what}"):
        split_tokens(with_lora(ltx)[0], tokens, count)
