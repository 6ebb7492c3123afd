"""A small Qwen2.5-VL with fewer and wider attention heads, such as servers have kernels for.

Shapes: W hidden size, D size of a head.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from rlnsp.settings import ConfigError


def heads_to_keep(
    model: Qwen2_5_VLForConditionalGeneration, heads: int, batches: Iterable[Mapping[str, Tensor]]
) -> list[list[int]]:
    """Of each layer the ``heads`` query heads on which the loss depends most.

    By the sum over batches of |d loss / d gate|, with a gate of 1 on what each head adds (Michel et al.,
    "Are Sixteen Heads Really Better than One?", arXiv:1905.10650, eq. 2).

    Args:
        model: left as it was, without gradients.
        heads: to keep of a layer.
        batches: what the model is called with, labels among it; an example each, as in the paper.
    """
    layers: Any = model.model.language_model.layers
    text: Any = model.config.text_config
    # A gate g on a head makes its columns of the projection g W: the derivative at g = 1 is <gradient, W>.
    projections = [layer.self_attn.o_proj.weight.requires_grad_(True) for layer in layers]
    total = torch.zeros(len(layers), text.num_attention_heads)
    for batch in batches:
        loss: Any = model(**batch).loss
        gradients = torch.autograd.grad(loss, projections)
        for row, weight, gradient in zip(total, projections, gradients, strict=True):
            by_head = (weight.detach() * gradient).unflatten(1, (len(row), -1))
            row += by_head.sum((0, 2)).abs()
    for weight in projections:
        weight.requires_grad_(False)
    return [sorted(row.topk(heads).indices.tolist()) for row in total]


def with_wider_heads(
    model: Qwen2_5_VLForConditionalGeneration, kept: Sequence[Sequence[int]]
) -> Qwen2_5_VLForConditionalGeneration:
    """A copy of ``model`` with the heads ``kept`` of each layer, each with keys and values of its own.

    A layer's heads share W as before, and so are wider.  They do what they did: their rotary frequencies are
    among those of wider ones.  What a head has room for beside that has no effect yet, but a gradient.
    Seeded by the caller.

    Raises:
        ConfigError: layers keep different numbers of heads, or the new heads' size is no multiple of the old.
    """
    text: Any = copy.deepcopy(model.config.text_config)
    width, old = text.hidden_size, text.hidden_size // text.num_attention_heads
    heads = len(kept[0])
    if {len(row) for row in kept} != {heads} or width % heads or (width // heads) % old:
        raise ConfigError(
            f"heads {[list(row) for row in kept]}: keep as many of each layer, so that their size is a "
            f"multiple of {old}, out of a width of {width}"
        )
    size, factor = width // heads, width // heads // old
    shared = text.num_attention_heads // text.num_key_value_heads
    text.num_attention_heads = text.num_key_value_heads = heads
    text.rope_parameters = {
        **text.rope_parameters,
        "mrope_section": [factor * section for section in text.rope_parameters["mrope_section"]],
    }
    config = copy.deepcopy(model.config)
    config.text_config = text
    made = Qwen2_5_VLForConditionalGeneration(config)
    weights, fresh = model.state_dict(), made.state_dict()
    for name in fresh:
        if ".self_attn." not in name:
            fresh[name] = weights[name]
    # A pair of a head's dimensions turns by theta^(-2 pair / D): in the wider head, every factor-th one does.
    pairs = torch.arange(old // 2) * factor
    rotary = torch.cat([pairs, pairs + size // 2])
    for layer, row in enumerate(kept):
        place = f"model.language_model.layers.{layer}.self_attn"
        for number, head in enumerate(row):
            to = slice(number * size, (number + 1) * size)
            queries = slice(head * old, (head + 1) * old)
            keys = slice(head // shared * old, (head // shared + 1) * old)
            for kind in ("weight", "bias"):
                q, k, v = (fresh[f"{place}.{part}_proj.{kind}"][to] for part in "qkv")
                q.zero_()
                # Scores are divided by the root of a head's size.
                q[rotary] = weights[f"{place}.q_proj.{kind}"][queries] * factor**0.5
                k[rotary] = weights[f"{place}.k_proj.{kind}"][keys]
                v[:old] = weights[f"{place}.v_proj.{kind}"][keys]
            o = fresh[f"{place}.o_proj.weight"][:, to]
            o.zero_()
            o[:, :old] = weights[f"{place}.o_proj.weight"][:, queries]
    made.load_state_dict(fresh)
    made.generation_config = copy.deepcopy(model.generation_config)
    return made
