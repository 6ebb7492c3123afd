# pyright: reportAttributeAccessIssue=false, reportArgumentType=false
# A decision is read as one: where it is an exception, the test fails.
"""A judge in this process and one behind a server, given the same weights, say the same."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from policies.unified.comprehension import Comprehension
from rewards.nsp_reward.local import LocalChat, LocalConfig
from rewards.nsp_reward.reward import NSPReward
from rlnsp.chat import AnswerCache, ChatConfig, FramesConfig, Question
from rlnsp.settings import ConfigError
from rlnsp.types import Sample
from rlnsp.world import FPS, futures, scenes
from tests.chat_server import speaking

SHIPPED = Path(__file__).parents[3] / "policies" / "world" / "comprehension"
"""Reads the world's words; as a judge it knows little, which is no matter here."""
SCENES = scenes("heldout", 32, 0)[1:4]
SAMPLES = [
    Sample(scene=scene, frames=futures(scene.context, 1, seed)[0], fps=FPS)
    for seed, scene in enumerate(SCENES)
]
SPECIAL = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
ASKING = {"prompts": "world", "frames": FramesConfig(fps=3.0), "caption_tokens": 12, "verdict_tokens": 2}


def local_config(**settings):
    return LocalConfig(**({"model": str(SHIPPED), "dtype": "fp32", "device": "cpu"} | settings))


@pytest.fixture(scope="module")
def chat():
    return LocalChat(local_config(batch_size=2))


class SlowOracle:
    """The same weights, one question at a time, one whole forward pass a token: no cache, no padding."""

    def __init__(self, kind=Qwen2_5_VLForConditionalGeneration, folder=SHIPPED):
        self.model = kind.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
        self.images = Qwen2VLImageProcessorPil.from_pretrained(SHIPPED)
        self.reader = Comprehension(self.model, self.tokenizer, self.images)

    def speak(self, text, images, most=12):
        extra, counts = {}, []
        if images:
            extra = dict(self.images(images=[Image.fromarray(one) for one in images], return_tensors="pt"))
            counts = (extra["image_grid_thw"].prod(-1) // 4).tolist()
        ids = self.tokenizer(self.reader.prompt(text, counts), add_special_tokens=False)["input_ids"]
        start, told = len(ids), []
        while len(ids) - start < most:
            row = torch.tensor([ids])
            kinds = (row == self.model.config.image_token_id).int()
            with torch.no_grad():
                logits = self.model(input_ids=row, mm_token_type_ids=kinds, use_cache=False, **extra).logits
            logprobs = logits[0, -1].log_softmax(-1)
            best = logprobs.topk(20)
            words = [self.tokenizer.decode([one]) for one in best.indices.tolist()]
            ids.append(int(best.indices[0]))
            if ids[-1] == self.tokenizer.eos_token_id:
                break
            told.append(list(zip(words, best.values.tolist(), strict=True)))
        return self.tokenizer.decode(ids[start:], skip_special_tokens=True), told


def test_local_and_served_judges_of_the_same_weights_agree(chat):
    local = NSPReward(
        NSPReward.Config(judge="transformers", mode="soft", transformers=local_config(), **ASKING)
    )
    with speaking(SlowOracle().speak) as server:
        asked = ChatConfig(base_urls=[server.url], concurrency=1)
        served = NSPReward(NSPReward.Config(judge="openai", mode="soft", openai=asked, **ASKING))
        found = list(zip(local.judge.decide(SAMPLES), served.judge.decide(SAMPLES), strict=True))
    for one, other in found:
        assert one.caption == other.caption
        assert one.score == pytest.approx(other.score, abs=1e-4)
        assert one.passed == other.passed
    assert len({one.caption for one, _ in found}) > 1


def questions():
    clip = SAMPLES[0].frames[[0, 4, 8]]
    return [
        Question(content=["Describe the video."], max_tokens=6),
        Question(content=[clip, "Describe the video."], max_tokens=6),
        Question(content=[clip[:1], "Describe the video."], max_tokens=6),
        Question(content=["A much longer text, so that the others are padded beside it. " * 3], max_tokens=6),
        Question(content=[clip, "Describe the video."], max_tokens=3),
        Question(content=[clip, "Describe the video."], max_tokens=6),
    ]


def test_an_answer_does_not_depend_on_what_is_asked_beside_it(chat):
    together = chat.answers(questions())
    assert together == [chat.answers([question])[0] for question in questions()]
    assert len({answer.text for answer in together}) >= 3
    assert together[1] == together[5]


def test_nothing_is_asked_twice_and_other_weights_are_asked_anew(tmp_path, chat, monkeypatch):
    first = chat.answers(questions())
    cached = LocalChat(local_config(), AnswerCache(tmp_path / "a.sqlite"))
    assert cached.answers(questions()) == first
    monkeypatch.setattr(LocalChat, "_generate", None)
    again = LocalChat(local_config(), AnswerCache(tmp_path / "a.sqlite"))
    assert again.answers(questions()) == first
    copy = shutil.copytree(SHIPPED, tmp_path / "other" / "comprehension")
    assert LocalChat(local_config(model=str(copy))).identity() == chat.identity()
    with (copy / "generation_config.json").open("a") as file:
        file.write("\n")
    assert LocalChat(local_config(model=str(copy))).identity() != chat.identity()


def test_greedy_is_greedy_whatever_the_model_s_own_defaults_are(tmp_path, chat):
    copy = shutil.copytree(SHIPPED, tmp_path / "comprehension")
    (copy / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 50.0, "repetition_penalty": 9.0, '
        '"eos_token_id": 2, "pad_token_id": 0}'
    )
    assert LocalChat(local_config(model=str(copy))).answers(questions()) == chat.answers(questions())


def test_an_offloaded_judge_is_on_its_device_only_while_it_is_asked(monkeypatch):
    offloaded = LocalChat(local_config(offload=True))
    assert next(offloaded.model.parameters()).device == torch.device("cpu")
    places, generate = [], LocalChat._generate

    def watched(self, *args):
        places.append("generates")
        return generate(self, *args)

    monkeypatch.setattr(LocalChat, "_generate", watched)
    monkeypatch.setattr(offloaded.model, "to", places.append)
    offloaded.on_device.device = torch.device("cpu", 0)
    offloaded.answers(questions()[:1])
    assert places == [torch.device("cpu", 0), "generates", "cpu"]


@pytest.mark.gpu
def test_an_offloaded_judge_leaves_the_gpu_s_memory_to_others():
    before = torch.cuda.memory_allocated()
    offloaded = LocalChat(local_config(offload=True, device="cuda"))
    (on_gpu,) = offloaded.answers(questions()[1:2])
    assert torch.cuda.memory_allocated() == before
    (on_cpu,) = LocalChat(local_config()).answers(questions()[1:2])
    assert on_gpu == on_cpu


def test_a_text_with_the_image_token_costs_no_other_question(chat):
    bad, good = chat.answers([Question(content=["<|image_pad|>"], max_tokens=2), questions()[0]])
    assert isinstance(bad, ValueError)
    assert "holds the image token itself" in str(bad)
    assert good.text


def test_a_template_that_takes_parts_is_given_parts(chat, tmp_path):
    copy = shutil.copytree(SHIPPED, tmp_path / "comprehension")
    (copy / "chat_template.jinja").write_text(
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{% if message.content is string %}"
        "{{ message.content }}{% else %}{% for part in message.content %}"
        "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
        "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    listing = LocalChat(local_config(model=str(copy)))
    assert (listing._lists, chat._lists) == (True, False)
    clip = SAMPLES[0].frames[:2]
    question = Question(content=["One: ", clip, " two: ", clip[:1], "."], max_tokens=2)
    assert listing._row(question).ids == chat._row(question).ids


def test_images_stand_where_the_question_has_them(chat):
    clip = SAMPLES[0].frames[:1]
    ids = chat._row(Question(content=["One", clip, "two"], max_tokens=2)).ids
    image = chat.model.config.image_token_id
    assert ids.count(image) == 4 * 4  # 64 pixels, patches of 8, merged in twos
    first = ids.index(image)
    assert chat.tokenizer.decode(ids[:first]).endswith("One<|vision_start|>")
    assert chat.tokenizer.decode(ids[first + 16 :]).startswith("<|vision_end|>two")


def test_a_qwen2_vl_is_read_as_a_qwen2_5_vl_is(tmp_path):
    """Random weights, of the layout that the hub's Qwen2-VL has."""
    folder = shutil.copytree(SHIPPED, tmp_path / "qwen2_vl")
    (folder / "model.safetensors").unlink()
    text = json.loads((SHIPPED / "config.json").read_text())["text_config"]
    config = Qwen2VLConfig(
        text_config={key: value for key, value in text.items() if key not in ("model_type", "dtype")},
        vision_config={
            "depth": 1,
            "embed_dim": 32,
            "hidden_size": text["hidden_size"],
            "num_heads": 2,
            "patch_size": 8,
        },
        **{key: json.loads((SHIPPED / "config.json").read_text())[key] for key in SPECIAL},
    )
    torch.manual_seed(0)
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    oracle = SlowOracle(Qwen2VLForConditionalGeneration, folder)
    for question in questions()[:2]:
        (answer,) = LocalChat(local_config(model=str(folder))).answers([question])
        shown = [frame for part in question.content if not isinstance(part, str) for frame in part]
        said, _ = oracle.speak("Describe the video.", shown, most=6)
        assert answer.text == said
        assert said


WRONG = [
    ({"model": "nowhere"}, "nowhere: there is no such folder. transformers.model takes a Qwen-VL"),
    ({"model": "{empty}"}, "config.json is missing. transformers.model takes"),
    ({"model": "{half}"}, "cannot load the .*transformers.model takes"),
    ({"model": "{bert}"}, "is a bert; this judge reads qwen2_vl and qwen2_5_vl.*rlnsp judge serve"),
]


@pytest.mark.parametrize(("settings", "says"), WRONG)
def test_what_is_no_judge_is_said_in_one_line(tmp_path, settings, says):
    for name, content in (
        ("empty", None),
        ("bert", '{"model_type": "bert"}'),
        ("half", '{"model_type": "qwen2_5_vl"}'),
    ):
        (tmp_path / name).mkdir()
        if content:
            (tmp_path / name / "config.json").write_text(content)
    path = settings["model"].format(**{name: tmp_path / name for name in ("empty", "bert", "half")})
    with pytest.raises(ConfigError, match=says):
        LocalChat(local_config(model=path))


def test_a_reward_s_local_judge_answers_from_frames(chat):
    reward = NSPReward(NSPReward.Config(judge="transformers", transformers=local_config(), **ASKING))
    still = [Sample(scene=one.scene, frames=np.zeros_like(one.frames), fps=one.fps) for one in SAMPLES[:1]]
    seen, blank = reward.judge.decide([SAMPLES[0], *still])
    assert seen.caption != blank.caption
