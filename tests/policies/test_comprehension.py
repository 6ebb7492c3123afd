"""The context through Qwen: padding, positions, gradients and frames."""

import numpy as np
import pytest
import torch

from policies.unified.comprehension import CAPTION, NEXT_SCENE, Comprehension
from policies.unified.settings import Limits
from tests.policies import tiny

TEXTS = ["a", "a red ball rolls right toward a blue box", "lamp"]


def clip(seed, frames=3, height=32, width=48):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


@pytest.fixture
def reader():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tiny.comprehension()


@pytest.fixture
def queries():
    return torch.randn(tiny.QUERIES, tiny.WIDTH, generator=torch.Generator().manual_seed(3))


def test_the_papers_template_is_word_for_word():
    assert NEXT_SCENE == "Please generate a video showing what happens after this scene: {}"


def test_a_row_alone_is_the_row_beside_longer_ones(reader, queries):
    together = reader(TEXTS, queries)
    for i, text in enumerate(TEXTS):
        torch.testing.assert_close(together[i : i + 1], reader([text], queries), rtol=0, atol=1e-5)


def test_padding_changes_nothing_for_rows_with_frames_either(reader, queries):
    clips = [None, clip(0), clip(1, frames=1)]
    together = reader(TEXTS, queries, clips)
    for i, text in enumerate(TEXTS):
        torch.testing.assert_close(
            together[i : i + 1], reader([text], queries, [clips[i]]), rtol=0, atol=1e-5
        )


def test_the_queries_are_read_as_if_they_were_the_next_tokens(reader):
    """With the embeddings of real tokens as queries, the stock model on the whole text says the same."""
    tail = "next"
    ids = reader.tokenizer(tail)["input_ids"]
    queries = reader.model.get_input_embeddings()(torch.tensor(ids))
    text = reader.prompt("a ball") + tail
    stock = reader.model.model(**reader.tokenizer(text, return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(reader(["a ball"], queries), stock[:, -len(ids) :], rtol=0, atol=1e-5)


def test_the_embeddings_of_a_text_as_queries_are_the_text(reader):
    queries = reader.embeddings("next")
    assert len(queries) == len(reader.tokenizer("next")["input_ids"])
    assert not queries.requires_grad
    stock = reader.model.model(**reader.tokenizer(reader.prompt("a") + "next", return_tensors="pt"))
    said = stock.last_hidden_state[:, -len(queries) :]
    torch.testing.assert_close(reader(["a"], queries), said, rtol=0, atol=1e-5)


def test_frames_are_read_as_the_stock_model_reads_images(reader):
    """The same with a clip: the stock forward computes its own positions from the ids and image grids."""
    frames, tail = clip(0, frames=2), "next"
    images = reader.images(frames)
    counts = (images["image_grid_thw"].prod(-1) // 4).tolist()
    assert counts == [6, 6]  # 32 x 48 pixels in patches of 8, merged 2 x 2
    ids = reader.tokenizer(tail)["input_ids"]
    queries = reader.model.get_input_embeddings()(torch.tensor(ids))
    whole = reader.tokenizer(reader.prompt("a ball", counts) + tail, return_tensors="pt")
    is_image = (whole["input_ids"] == reader.model.config.image_token_id).int()
    stock = reader.model.model(**whole, **images, mm_token_type_ids=is_image).last_hidden_state
    torch.testing.assert_close(
        reader(["a ball"], queries, [frames]), stock[:, -len(ids) :], rtol=0, atol=1e-5
    )


def test_another_clip_is_another_condition(reader, queries):
    none, one, two = (reader(["a ball"], queries, [c]) for c in (None, clip(0), clip(1)))
    assert (one - none).abs().max() > 1e-3
    assert (one - two).abs().max() > 1e-3


def test_gradient_reaches_the_queries_through_a_frozen_qwen(model):
    model.train_only("queries", "connector")
    before = {name: p.clone() for name, p in model.comprehension.named_parameters()}
    model.encode_texts(["a ball"]).embeds.square().sum().backward()
    assert model.connector.queries.grad.abs().amax(1).min() > 0  # each query has its share
    assert model.connector.proj_in.weight.grad.abs().max() > 0
    for name, parameter in model.comprehension.named_parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad
        assert torch.equal(parameter, before[name])


def test_the_reader_is_frozen_from_the_start(reader):
    assert not any(parameter.requires_grad for parameter in reader.parameters())
    assert not any(module.training for module in reader.model.modules())


def test_the_null_row_is_the_empty_text_whatever_the_template(model):
    scene, caption = model.encode_texts(["a"]), model.encode_texts(["a"], template=CAPTION)
    torch.testing.assert_close(scene.null_embeds, caption.null_embeds, rtol=0, atol=1e-6)
    assert not torch.allclose(scene.embeds, caption.embeds, rtol=0, atol=1e-6)
    assert scene.embeds.shape == (1, tiny.QUERIES, tiny.CAPTION_CHANNELS)
    assert scene.mask.all()


def test_the_chat_template_is_used_where_there_is_one(reader):
    assert reader.prompt("hi") == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    reader.tokenizer.chat_template = None
    assert reader.prompt("hi") == "hi"


def test_a_text_without_a_token_still_has_its_queries(reader, queries):
    reader.tokenizer.chat_template = None
    assert reader(["", "abc"], queries).isfinite().all()


def test_a_clip_is_thinned_and_shrunk_to_its_limits(reader):
    limits = Limits(clip_frames=2, clip_max_pixels=16 * 32)
    small = Comprehension(reader.model, reader.tokenizer, reader.image_processor, limits)
    frames = np.stack([np.full((32, 64, 3), 50 * i, dtype=np.uint8) for i in range(5)])
    images = small.images(frames)
    assert images["image_grid_thw"].tolist() == [[1, 2, 4], [1, 2, 4]]  # 16 x 32 pixels in patches of 8
    assert torch.equal(images["pixel_values"], small.images(frames[[0, 4]])["pixel_values"])
    assert not torch.equal(images["pixel_values"], small.images(frames[[0, 3]])["pixel_values"])


def test_a_context_over_the_limit_is_refused_with_the_remedy(reader, queries):
    short = Comprehension(reader.model, reader.tokenizer, reader.image_processor, Limits(max_length=50))
    with pytest.raises(ValueError, match=r"more than the 50 of limits.max_length. Shorten it"):
        short(["a" * 60], queries)


def test_a_context_that_holds_an_image_token_is_refused(reader, queries):
    with pytest.raises(ValueError, match="holds the image token itself"):
        reader(["a <|image_pad|> b"], queries)
