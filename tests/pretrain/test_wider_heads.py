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
from pretrain.wider_heads import with_wider_heads
from rlnsp.settings import ConfigError


@pytest.fixture
def comprehension() -> Comprehension:
    return load_comprehension(Source(path=str(policy_folder("world") / "comprehension")))


def test_a_wider_head_does_what_the_kept_one_did(comprehension: Comprehension) -> None:
    model = comprehension.model
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            # Of two query heads that share keys, the second says nothing: the first is kept, and is all.
            layer.self_attn.o_proj.weight.view(128, 4, 2, 16)[:, :, 1] = 0
    wider = with_wider_heads(model, 32)
    assert wider.config.text_config.num_attention_heads == 4
    clip = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
    batch = batch_of(comprehension, [(DESCRIBE, "A red ball.", clip), ("Any text.", "Pass", None)])
    kept = batch["attention_mask"].bool()
    with torch.no_grad():
        before, after = model(**batch).logits[kept], wider(**batch).logits[kept]
    assert before.std() > 0.5
    torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-3)


def test_what_a_wider_head_has_room_for_can_be_learned(comprehension: Comprehension) -> None:
    wider = with_wider_heads(comprehension.model, 32).requires_grad_(True)
    batch = batch_of(comprehension, [("Any text.", "Pass", None)])
    wider(**batch).loss.backward()
    attention = wider.model.language_model.layers[0].self_attn
    for gradient in (attention.q_proj.weight.grad, attention.o_proj.weight.grad.T):
        assert (gradient.abs().sum(1) > 0).all()


def test_only_as_many_heads_as_there_are_keys_can_be_made(comprehension: Comprehension) -> None:
    with pytest.raises(ConfigError, match="can only have heads of 32"):
        with_wider_heads(comprehension.model, 64)
