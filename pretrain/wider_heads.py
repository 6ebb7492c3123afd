"""A small Qwen2.5-VL with fewer and wider attention heads, such as servers have kernels for.

Shapes: W hidden size, D size of a head.
"""

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from rlnsp.settings import ConfigError


def with_wider_heads(
    model: Qwen2_5_VLForConditionalGeneration, head_dim: int
) -> Qwen2_5_VLForConditionalGeneration:
    """A copy of ``model`` with W / ``head_dim`` heads, one for each head of keys and values that it has.

    Of the query heads that share keys and values, the one with the largest weights is kept, and does what it
    did: its rotary frequencies are among a wider one's.  What that has room for beside has no effect yet, but
    a gradient.  Seeded by the caller.

    Raises:
        ConfigError: that many heads are not as many as its heads of keys and values, or not wider.
    """
    text: Any = copy.deepcopy(model.config.text_config)
    width, old = text.hidden_size, text.hidden_size // text.num_attention_heads
    heads, factor = width // head_dim, head_dim // old
    if heads != text.num_key_value_heads or factor * old != head_dim or head_dim % 2:
        raise ConfigError(
            f"head_dim={head_dim}: a model of width {width} with {text.num_key_value_heads} heads of keys "
            f"and values can only have heads of {width // text.num_key_value_heads}"
        )
    shared = text.num_attention_heads // heads
    text.num_attention_heads = heads
    text.rope_parameters = {
        **text.rope_parameters,
        "mrope_section": [factor * size for size in text.rope_parameters["mrope_section"]],
    }
    config = copy.deepcopy(model.config)
    config.text_config = text
    made = Qwen2_5_VLForConditionalGeneration(config)
    weights, fresh = model.state_dict(), made.state_dict()
    for name in fresh:
        if ".self_attn." not in name or "visual" in name:
            fresh[name] = weights[name]
    # A pair of a head's dimensions turns by theta^(-2 pair / D): in the wider head, every factor-th one does.
    pairs = torch.arange(old // 2) * factor
    rotary = torch.cat([pairs, pairs + head_dim // 2])
    for layer in range(text.num_hidden_layers):
        place = f"model.language_model.layers.{layer}.self_attn"
        for head in range(heads):
            rows = slice(head * head_dim, (head + 1) * head_dim)
            group = range(head * shared, (head + 1) * shared)
            kept = max(group, key=lambda one: _size(weights, place, one, old))
            queries, keys = (slice(one * old, (one + 1) * old) for one in (kept, head))
            for kind in ("weight", "bias"):
                q, k, v = (fresh[f"{place}.{part}_proj.{kind}"][rows] for part in "qkv")
                q.zero_()
                # Scores are divided by the root of a head's size.
                q[rotary] = weights[f"{place}.q_proj.{kind}"][queries] * factor**0.5
                k[rotary] = weights[f"{place}.k_proj.{kind}"][keys]
                v[:old] = weights[f"{place}.v_proj.{kind}"][keys]
            o = fresh[f"{place}.o_proj.weight"][:, rows]
            o.zero_()
            o[:, :old] = weights[f"{place}.o_proj.weight"][:, queries]
    made.load_state_dict(fresh)
    made.generation_config = copy.deepcopy(model.generation_config)
    return made


def _size(weights: dict[str, Tensor], place: str, head: int, old: int) -> float:
    rows = slice(head * old, (head + 1) * old)
    q, o = weights[f"{place}.q_proj.weight"][rows], weights[f"{place}.o_proj.weight"][:, rows]
    return float(q.norm() * o.norm())
