from typing import Any

import numpy as np
import pytest
import torch

from policies.settings import Source
from policies.unified.comprehension import Comprehension
from policies.unified.files import policy_folder
from policies.unified.weights import load_comprehension
from pretrain.turns import DESCRIBE, batch_of
from pretrain.wider_heads import heads_to_keep, with_wider_heads
from rlnsp.settings import ConfigError

KEPT = [[0, 1, 5, 6], [1, 3, 4, 7], [2, 4, 5, 7], [0, 2, 3, 7]]


@pytest.fixture
def comprehension() -> Comprehension:
    return load_comprehension(Source(path=str(policy_folder("world") / "comprehension")))


def attention(model: Any) -> list[Any]:
    """Of each layer."""
    return [layer.self_attn for layer in model.model.language_model.layers]


def silence(comprehension: Comprehension, kept: list[list[int]]) -> None:
    with torch.no_grad():
        for own, row in zip(attention(comprehension.model), kept, strict=True):
            for head in set(range(8)) - set(row):
                own.o_proj.weight[:, 16 * head : 16 * (head + 1)] = 0


def test_wider_heads_do_what_they_did(comprehension: Comprehension) -> None:
    silence(comprehension, KEPT)
    wider = with_wider_heads(comprehension.model, KEPT)
    text: Any = wider.config.text_config
    assert (text.num_attention_heads, text.num_key_value_heads) == (4, 4)
    clip = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
    batch = batch_of(comprehension, [(DESCRIBE, "A red ball.", clip), ("Any text.", "Pass", None)])
    attended = batch["attention_mask"].bool()
    with torch.no_grad():
        before, after = comprehension.model(**batch).logits[attended], wider(**batch).logits[attended]
    assert before.std() > 0.5
    torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-3)


def test_what_a_wider_head_has_room_for_can_be_learned(comprehension: Comprehension) -> None:
    wider = with_wider_heads(comprehension.model, KEPT).requires_grad_(True)
    batch = batch_of(comprehension, [("Any text.", "Pass", None)])
    loss: Any = wider(**batch).loss
    loss.backward()
    first = attention(wider)[0]
    for gradient in (first.q_proj.weight.grad, first.o_proj.weight.grad.T):
        assert (gradient.abs().sum(1) > 0).all()


def test_the_heads_that_stay_are_those_on_which_the_loss_depends(comprehension: Comprehension) -> None:
    silence(comprehension, [[1, 2, 3, 4, 5, 6]] * 4)
    weights = {name: value.clone() for name, value in comprehension.model.state_dict().items()}
    batch = batch_of(comprehension, [("Preceding scene: A red ball rolls.", "A red ball stops.", None)])
    assert heads_to_keep(comprehension.model, 6, [batch, batch]) == [[1, 2, 3, 4, 5, 6]] * 4
    assert all(torch.equal(value, weights[name]) for name, value in comprehension.model.state_dict().items())
    assert not any(value.requires_grad for value in comprehension.model.parameters())

    def loss(head: int, gate: float) -> float:
        projection = attention(comprehension.model)[0].o_proj.weight
        with torch.no_grad():
            projection[:, 16 * head : 16 * (head + 1)] *= gate
            found: Any = comprehension.model(**batch).loss
            projection[:, 16 * head : 16 * (head + 1)] /= gate
        return float(found)

    slope = {head: abs(loss(head, 1.1) - loss(head, 0.9)) for head in range(1, 7)}
    steepest = sorted(sorted(slope, key=lambda head: -slope[head])[:3])
    assert heads_to_keep(comprehension.model, 3, [batch])[0] == steepest


@pytest.mark.parametrize("kept", [[[0, 1, 2]] * 4, [[0, 1, 2, 3]] * 3 + [[0, 1]]])
def test_heads_that_do_not_fit_are_refused(comprehension: Comprehension, kept: list[list[int]]) -> None:
    with pytest.raises(ConfigError, match="keep as many of each layer"):
        with_wider_heads(comprehension.model, kept)
