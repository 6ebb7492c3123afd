# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportOptionalMemberAccess=false
# torch types a module's parts as tensors or modules.
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


def silence(comprehension: Comprehension, kept: list[list[int]]) -> None:
    with torch.no_grad():
        for layer, row in zip(comprehension.model.model.language_model.layers, kept, strict=True):
            for head in set(range(8)) - set(row):
                layer.self_attn.o_proj.weight[:, 16 * head : 16 * (head + 1)] = 0


def test_wider_heads_do_what_they_did(comprehension: Comprehension) -> None:
    silence(comprehension, KEPT)
    wider = with_wider_heads(comprehension.model, KEPT)
    assert wider.config.text_config.num_attention_heads == 4
    assert wider.config.text_config.num_key_value_heads == 4
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
    wider(**batch).loss.backward()
    attention = wider.model.language_model.layers[0].self_attn
    for gradient in (attention.q_proj.weight.grad, attention.o_proj.weight.grad.T):
        assert (gradient.abs().sum(1) > 0).all()


def test_heads_that_say_nothing_are_the_first_to_go(comprehension: Comprehension) -> None:
    silence(comprehension, [[1, 2, 3, 4, 5, 6]] * 4)
    weights = {name: value.clone() for name, value in comprehension.model.state_dict().items()}
    batch = batch_of(comprehension, [("Preceding scene: A red ball rolls.", "A red ball stops.", None)])

    def loss() -> float:
        with torch.no_grad():
            return float(comprehension.model(**batch).loss)

    whole = loss()
    kept = heads_to_keep(comprehension.model, 6, lambda: abs(loss() - whole))
    assert kept == [[1, 2, 3, 4, 5, 6]] * 4
    assert all(torch.equal(value, weights[name]) for name, value in comprehension.model.state_dict().items())


@pytest.mark.parametrize("kept", [[[0, 1, 2]] * 4, [[0, 1, 2, 3]] * 3 + [[0, 1]]])
def test_heads_that_do_not_fit_are_refused(comprehension: Comprehension, kept: list[list[int]]) -> None:
    with pytest.raises(ConfigError, match="keep as many of each layer"):
        with_wider_heads(comprehension.model, kept)
