from dataclasses import replace

import pytest
import torch

from rlnsp.types import Condition


@pytest.fixture
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def condition(embeds):
    mask = torch.arange(embeds.shape[1]).expand(embeds.shape[:2]) < torch.arange(1, len(embeds) + 1)[:, None]
    return Condition(embeds=embeds, mask=mask, null_embeds=embeds[:1], null_mask=mask[:1])


def test_rows_are_taken_with_their_masks_and_may_repeat():
    whole = condition(torch.arange(24.0).reshape(3, 4, 2))
    taken = whole.take(torch.tensor([2, 0, 2]))
    assert torch.equal(taken.embeds, torch.stack([whole.embeds[2], whole.embeds[0], whole.embeds[2]]))
    assert taken.mask.sum(1).tolist() == [3, 1, 3]


def test_known_latents_are_taken_with_their_rows_and_take_their_place():
    plain = condition(torch.zeros(3, 4, 2))
    x = torch.arange(18.0).reshape(2, 3, 3)
    assert plain.given(x) is x
    first = -torch.arange(1.0, 10.0).reshape(3, 1, 3)
    taken = replace(plain, first=first).take(torch.tensor([2, 0]))
    assert plain.take(torch.tensor([2, 0])).first is None
    assert torch.equal(taken.given(x)[:, 0], first[[2, 0], 0])
    assert torch.equal(taken.given(x)[:, 1:], x[:, 1:])


def test_gradients_of_a_row_taken_twice_add_up():
    embeds = torch.zeros(3, 1, 2, requires_grad=True)
    taken = condition(embeds).take(torch.tensor([2, 0, 2]))
    (grad,) = torch.autograd.grad((taken.embeds.sum((1, 2)) * torch.tensor([1.0, 10.0, 100.0])).sum(), embeds)
    assert grad[:, 0].tolist() == [[10.0, 10.0], [0.0, 0.0], [101.0, 101.0]]


@pytest.mark.usefixtures("_two_threads")
def test_the_gradient_of_rows_taken_is_the_same_to_the_bit_each_time():
    # Large enough for torch to share it out between threads.
    def draw(seed, *shape):
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    embeds = draw(0, 8, 64, 256).requires_grad_()
    index = torch.randint(8, (96,), generator=torch.Generator().manual_seed(1))
    weight = draw(2, 96, 64, 256)
    first, *others = (
        torch.autograd.grad((condition(embeds).take(index).embeds * weight).sum(), embeds)[0]
        for _ in range(8)
    )
    assert all(torch.equal(first, other) for other in others)
