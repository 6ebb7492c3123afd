import re
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPModel

from rewards.clip_alignment import ClipAlignment
from rlnsp.settings import ConfigError
from rlnsp.testing import check_reward
from rlnsp.testing.bench import make_bench
from rlnsp.types import Sample, Scene
from rlnsp.world import scenes
from tests.rewards.tiny_clip import save_clip

RNG = np.random.default_rng(0)
CLIPS = RNG.integers(0, 256, (3, 5, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


def reward(folder, **settings):
    return ClipAlignment(ClipAlignment.Config(model=str(folder), device="cpu", **settings))


def sample(frames, context="A ball.", caption="It stops."):
    scene = Scene(id=context, context=context, caption=caption)
    return Sample(scene=scene, frames=frames, fps=8.0)


def by_hand(folder, frames, text):
    """The mean cosine, a frame at a time; 32 x 32 frames are neither resized nor cut."""
    one = reward(folder)
    model: Any = CLIPModel.from_pretrained(folder).eval()
    mean, std = torch.tensor(one.images.image_mean), torch.tensor(one.images.image_std)
    with torch.no_grad():
        words = model.get_text_features(**one.tokenizer([text], return_tensors="pt")).pooler_output[0]
        cosines = []
        for frame in frames:
            pixels = ((torch.tensor(frame) / 255 - mean) / std).permute(2, 0, 1)
            seen = model.get_image_features(pixels[None]).pooler_output[0]
            cosines.append(float(torch.cosine_similarity(seen, words, dim=0)))
    return sum(cosines) / len(cosines)


def test_it_is_the_mean_cosine_over_frames(folder):
    texts = ["A ball rolls.", "Ice melts.", "A ball rolls."]
    samples = [sample(clip, text) for clip, text in zip(CLIPS, texts, strict=True)]
    expected = [by_hand(folder, clip, text) for clip, text in zip(CLIPS, texts, strict=True)]
    assert reward(folder)(samples) == pytest.approx(expected, abs=1e-5)
    assert reward(folder, batch_size=2)(samples) == pytest.approx(expected, abs=1e-5)
    assert np.ptp(expected) > 0.01


def test_the_caption_is_read_where_it_is_asked_for(folder):
    found = reward(folder, text="caption")([sample(CLIPS[0])])
    assert found == pytest.approx([by_hand(folder, CLIPS[0], "It stops.")], abs=1e-5)


def test_frames_are_taken_evenly_from_the_first_to_the_last(folder):
    found = reward(folder, num_frames=3)([sample(CLIPS[0])])
    assert found == pytest.approx([by_hand(folder, CLIPS[0][[0, 2, 4]], "A ball.")], abs=1e-5)


def test_what_a_text_says_after_77_tokens_has_no_effect(folder):
    long = "a" * 75  # a token a letter, and one at each end
    at_end, beyond = (reward(folder)([sample(CLIPS[0], text)]) for text in (long, long + " and more"))
    assert beyond == at_end
    assert reward(folder)([sample(CLIPS[0], long[:-1])]) != at_end


def test_offloaded_it_says_the_same(folder):
    samples = [sample(clip) for clip in CLIPS]
    assert reward(folder, offload=True)(samples) == reward(folder)(samples)


def test_the_seam_is_kept(folder):
    bench = make_bench(scenes("heldout", 3, seed=0))
    check_reward(reward(folder, num_frames=2), bench.samples)


def test_a_scene_without_the_text_is_refused(folder):
    with pytest.raises(ValueError, match="scene 'a' has no caption"):
        reward(folder, text="caption").check_scenes([Scene(id="a", context="A ball.")])


def test_a_folder_that_is_not_there_is_named_with_the_download_command(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere: there is no such folder\. .*hf download openai/clip"):
        reward(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", r"config\.json is missing"),
        ("model.safetensors", "cannot load the model"),
        ("preprocessor_config.json", "cannot load the CLIPImageProcessorPil"),
        ("tokenizer.json", "the tokenizer has no vocabulary"),
    ],
)
def test_a_file_that_is_missing_is_an_error_with_the_download_command(tmp_path, name, message):
    (save_clip(tmp_path / "clip") / name).unlink()
    with pytest.raises(ConfigError, match=f"{message}.*hf download"):
        reward(tmp_path / "clip")


def test_pickled_weights_are_not_read(tmp_path):
    folder = save_clip(tmp_path / "clip")
    torch.save(CLIPModel.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="cannot load the model"):
        reward(folder)


@pytest.mark.parametrize("name", ["num_frames", "batch_size"])
def test_counts_must_be_positive(name):
    settings: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=re.escape(f"{name} must be at least 1; got 0")):
        ClipAlignment.Config(**settings)
