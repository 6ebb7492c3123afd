"""LoRA on the DiT, by peft: injected with its targets checked, saved in peft's own format."""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.utils.save_and_load import load_peft_weights
from torch import nn

from rlnsp.settings import ConfigError

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def add_lora(
    transformer: nn.Module, *, rank: int, alpha: float, targets: Sequence[str], seed: int
) -> PeftModel:
    """The DiT with a zero adapter: B starts at 0, so its velocity is still the bare DiT's.

    Args:
        transformer: frozen and changed in place.
        rank: of every update.
        alpha: the update is scaled by alpha / rank.
        targets: ends of module names; each must match a linear layer.
        seed: of the A matrices; torch's global generator is left as it was.

    Raises:
        ConfigError: a target that matches no linear layer.
    """
    linear = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            raise ConfigError(_no_match(target, linear))
    transformer.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), lora_dropout=0.0)  # pyright: ignore[reportArgumentType]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(transformer, config)  # pyright: ignore[reportArgumentType, reportReturnType]


def _no_match(target: str, linear: Sequence[str]) -> str:
    ends: list[str] = []
    for name in linear:
        parts = name.split(".")
        # Block numbers tell nothing here; "to_out.0" and "net.0.proj" are one name each.
        end = (
            ".".join(parts[-3:])
            if "net" in parts[-3:-1]
            else ".".join(parts[-2:])
            if parts[-1].isdigit()
            else parts[-1]
        )
        if end not in ends:
            ends.append(end)
    near = difflib.get_close_matches(target, ends, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    known = ", ".join(ends)
    return f"lora.targets: {target!r} matches no linear layer of the transformer.{hint} Its layers: {known}."


def shards(model: PeftModel) -> list[nn.Module]:
    """The DiT's blocks, and the DiT: what FSDP may spread, as ``rlnsp.protocols.Shards`` says."""
    bare: Any = model.get_base_model()
    blocks = [block for part in bare.children() if isinstance(part, nn.ModuleList) for block in part]
    return [*blocks, bare]


def save_lora(model: PeftModel, folder: Path) -> None:
    """Write ``ADAPTER_FILES``, which ``PeftModel.from_pretrained`` reads on the bare transformer."""
    model.save_pretrained(str(folder), safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card says nothing


def merged(model: PeftModel) -> Any:
    """The bare DiT with the adapter's update in its weights: a copy, in fp32, which holds small updates.

    In bf16 most of an update is smaller than the last bit of the weight that it is added to.
    """
    whole: Any = copy.deepcopy(model).float()
    return whole.merge_and_unload()


def load_lora(model: PeftModel, folder: Path) -> None:
    """Put the adapter of ``folder`` in the place of the current one.

    Raises:
        ConfigError: another rank, scale or other targets than the model's.
    """
    saved = json.loads((folder / ADAPTER_FILES[0]).read_text())
    now: Any = model.peft_config["default"]
    for key, ours in (("r", now.r), ("lora_alpha", now.lora_alpha), ("target_modules", now.target_modules)):
        theirs = set(saved[key]) if key == "target_modules" else saved[key]
        if theirs != (set(ours) if key == "target_modules" else ours):
            raise ConfigError(
                f"{folder}: the adapter has {key}={saved[key]}, the policy {ours}. "
                "Set policy.config.lora alike."
            )
    result = set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
    if result.unexpected_keys:
        raise ConfigError(
            f"{folder}: the adapter is of another transformer (it has {result.unexpected_keys[0]})."
        )
