import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from rewards.video_reward import VideoReward, convert, layout
from rewards.video_reward.reward import _sampled
from rlnsp.settings import ConfigError
from rlnsp.testing import check_reward
from rlnsp.types import Sample, Scene
from tests.rewards.tiny_video_reward import SETTINGS, TOKENS, publish

RNG = np.random.default_rng(0)
CLIPS = RNG.integers(0, 256, (3, 9, 24, 32, 3), np.uint8)
TEXTS = ("A ball rolls.", "A block of ice melts slowly beside a heater.", "It is dark.")
MIN_PIXELS = 16 * 16


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return publish(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def folder(published, tmp_path_factory):
    """As converted; small frames stay small."""
    made = tmp_path_factory.mktemp("made") / "folder"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "MIN_PIXELS", MIN_PIXELS)
        words = [str(published.checkpoint), "--base", str(published.base)]
        assert convert.main([*words, "--prompts", str(published.prompts), "-o", str(made)]) == 0
    return made


def reward(folder, **settings):
    return VideoReward(VideoReward.Config(model=str(folder), dtype="fp32", device="cpu", **settings))


def sample(frames, text: Any = TEXTS[0], id="a", fps=8.0):
    scene = Scene(id=id, context=text, caption=text[::-1])
    return Sample(scene=scene, frames=frames, fps=fps)


SAMPLES = [sample(clip, text, text[:9]) for clip, text in zip(CLIPS, TEXTS, strict=True)]


@torch.no_grad()
def by_hand(published, one, clip, text):
    """The published scores of a clip, by the model with its LoRA beside it, unbatched and not padded."""
    frames = clip[[0, 3, 5, 8]]  # 9 frames of 8 a second at 2 a second are fewer than the least, 4
    patches, grid = one._patches(frames)
    prompt = f'\nLook: {TOKENS[0]}\nMotion: {TOKENS[1]}\n"{text}": {TOKENS[2]}\n'
    seen = "<|vision_start|>" + "<|video_pad|>" * (math.prod(grid) // 4) + "<|vision_end|>"
    turn = f"<|im_start|>user\n{seen}{prompt}<|im_end|>\n<|im_start|>assistant\n"
    ids = one.tokenizer(turn, return_tensors="pt")["input_ids"]
    model = published.model.base_model.model
    hidden = model.model(
        input_ids=ids,
        pixel_values_videos=torch.from_numpy(patches),
        video_grid_thw=torch.tensor([grid]),
        mm_token_type_ids=2 * (ids == model.config.video_token_id).int(),
    ).last_hidden_state[0]
    scores = []
    for name, token in zip(("VQ", "MQ", "TA"), TOKENS, strict=True):
        (place,) = (ids[0] == one.tokenizer.convert_tokens_to_ids(token)).nonzero()[:, 0].tolist()
        norm = SETTINGS["inference_config"]
        scores.append((float(model.rm_head(hidden[place])) - norm[f"{name}_mean"]) / norm[f"{name}_std"])
    return scores


def test_the_converted_model_scores_as_the_published_one_does(published, folder):
    one = reward(folder)
    expected = [by_hand(published, one, clip, text) for clip, text in zip(CLIPS, TEXTS, strict=True)]
    assert np.ptp(expected, axis=0).min() > 1e-3
    assert one(SAMPLES) == pytest.approx([sum(three) for three in expected], abs=1e-4)
    weighed = reward(
        folder, visual_quality=2.0, motion_quality=0.0, text_alignment=-1.0, batch_size=2, offload=True
    )
    assert weighed(SAMPLES) == pytest.approx([2 * vq - ta for vq, _, ta in expected], abs=1e-4)
    (said, *_) = one.explain(SAMPLES)
    vq, mq, ta = expected[0]
    assert said is not None
    assert said.verdict == f"VQ {vq:+.2f}, MQ {mq:+.2f}, TA {ta:+.2f}"


def test_the_caption_is_read_where_it_is_asked_for(folder):
    turned = [sample(one.frames, one.scene.caption) for one in SAMPLES]
    assert reward(folder, text="caption")(turned) == pytest.approx(reward(folder)(SAMPLES), abs=1e-5)


def test_the_seam_is_kept(folder):
    samples = [
        sample(clip, f"A ball {i // 2}.", f"scene {i // 2}") for i, clip in enumerate(CLIPS[[0, 1, 2, 0]])
    ]
    check_reward(reward(folder), samples)


def test_patches_are_those_of_transformers_image_processor(folder):
    """Which repeats an image in time: so two equal frames are what it makes of one."""
    one = reward(folder)
    frame = CLIPS[0, 0]
    patches, grid = one._patches(np.stack([frame, frame, CLIPS[0, 1], CLIPS[0, 1]]))
    size = {"shortest_edge": MIN_PIXELS, "longest_edge": 64 * 64}
    theirs = one.images([Image.fromarray(f) for f in CLIPS[0, :2]], size=size, return_tensors="np")
    assert grid == (2, 6, 8)
    assert theirs["image_grid_thw"].tolist() == [[1, 6, 8]] * 2
    assert patches == pytest.approx(theirs["pixel_values"], abs=1e-5)


def test_both_frames_of_a_patch_are_in_their_order(folder):
    one = reward(folder)
    a, b = CLIPS[0, :2]
    both, _ = one._patches(np.stack([a, b]))
    for place, frame in enumerate((a, b)):
        alone, _ = one._patches(np.stack([frame, frame]))
        parts = [x.reshape(len(x), 3, 2, 16) for x in (both, alone)]
        assert (parts[0][:, :, place] == parts[1][:, :, place]).all()


@pytest.mark.parametrize(
    ("length", "fps", "expected"),
    [
        (9, 8.0, [0, 3, 5, 8]),  # 2.25 frames at 2 a second are fewer than the least
        (48, 16.0, [0, 9, 19, 28, 38, 47]),  # 3 s
        (3, 8.0, [0, 2]),
        (2, 8.0, [0, 1]),
    ],
)
def test_frames_are_sampled_as_in_training(length, fps, expected):
    frames = np.arange(length, dtype=np.uint8)[:, None, None, None]
    assert _sampled(frames, fps, 2.0)[:, 0, 0, 0].tolist() == expected


def test_a_clip_of_one_frame_cannot_be_scored(folder):
    first, second = reward(folder)([sample(CLIPS[0, :1]), SAMPLES[0]])
    assert first is None
    assert second == pytest.approx(reward(folder)(SAMPLES[:1])[0], abs=1e-5)


def test_a_text_that_is_missing_or_holds_a_token_is_refused(folder):
    one = reward(folder)
    with pytest.raises(ValueError, match="scene 'a' has no context"):
        one.check_scenes([Scene(id="a", context="")])
    for token in ("<|TA_reward|>", "<|video_pad|>"):
        with pytest.raises(ValueError, match=r"scene 'a': its text holds <\|"):
            one.check_scenes([Scene(id="a", context=f"A ball {token}.")])


def test_what_was_converted_says_what_it_was_trained_with(folder):
    published = layout.read_published(folder)
    assert (published.fps, published.min_pixels, published.max_pixels) == (2.0, MIN_PIXELS, 64 * 64)
    assert published.mean == {"VQ": 0.5, "MQ": -0.25, "TA": 0.125}
    assert published.std == {"VQ": 2.0, "MQ": 0.5, "TA": 4.0}


def test_a_missing_folder_is_an_error_with_the_commands(tmp_path):
    with pytest.raises(ConfigError, match="no such folder.*hf download KwaiVGI/VideoReward.*convert"):
        reward(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rm_head.safetensors", None, "rm_head.safetensors is missing"),
        ("prompt.txt", None, "prompt.txt is missing"),
        ("prompt.txt", "{text_prompt} <|VQ_reward|> <|MQ_reward|>", r"<\|TA_reward\|> must be in the prompt"),
        ("video_reward.json", None, "video_reward.json is missing"),
        ("video_reward.json", "{}", "missing 5 required"),
        ("model.safetensors", None, "cannot load the model"),
    ],
)
def test_a_folder_that_is_not_whole_is_an_error_with_the_commands(folder, tmp_path, name, content, message):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        if path.name != name:
            (copy / path.name).symlink_to(path)
    if content is not None:
        (copy / name).write_text(content)
    with pytest.raises(ConfigError, match=f"{message}.*hf download KwaiVGI/VideoReward"):
        reward(copy)


def test_a_head_of_another_width_is_an_error(folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        if path.name != layout.HEAD:
            (copy / path.name).symlink_to(path)
    save_file({"weight": torch.zeros(1, 8)}, copy / layout.HEAD)
    with pytest.raises(ConfigError, match="size mismatch"):
        reward(copy)


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("data_config", "prompt_template_type", "simple", "prompt_template_type is 'simple'"),
        ("data_config", "num_frames", 8, "num_frames is 8"),
        ("peft_lora_config", "use_rslora", True, "use_rslora is True"),
        ("inference_config", "TA_std", None, "inference_config lacks TA_std"),
        ("inference_config", "TA_std", 0.0, "std must be above 0"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused_and_nothing_is_written(
    published, tmp_path, capsys, monkeypatch, part, key, value, message
):
    monkeypatch.setattr(convert, "MIN_PIXELS", MIN_PIXELS)
    settings = json.loads(json.dumps(SETTINGS))
    settings[part][key] = value
    if value is None:
        del settings[part][key]
    (tmp_path / "model_config.json").write_text(json.dumps(settings))
    (tmp_path / "checkpoint-12").symlink_to(published.checkpoint / "checkpoint-12")
    words = [str(tmp_path), "--base", str(published.base), "--prompts", str(published.prompts)]
    assert convert.main([*words, "-o", str(tmp_path / "made")]) == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"model_config.json", "checkpoint-12"}


def test_a_weight_that_is_missing_is_named(published):
    weights = torch.load(published.checkpoint / "checkpoint-12" / "model.pth", weights_only=True)
    weights.pop("base_model.model.model.norm.weight")
    (found,) = {"norm.weight"} - {name.partition("language_model.")[2] for name in convert.merged(weights, 3)}
    assert found == "norm.weight"
    with pytest.raises(ConfigError, match="'other' should begin with 'base_model.model.'"):
        convert.merged({**weights, "other": torch.zeros(1)}, 3.0)
