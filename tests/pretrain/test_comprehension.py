import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from policies.latents import Geometry
from policies.settings import Source
from policies.unified.comprehension import CAPTION, NEXT_SCENE, Comprehension
from policies.unified.weights import load_comprehension, save_policy
from pretrain.clips import Clips
from pretrain.comprehension import (
    ComprehensionConfig,
    build_comprehension,
    train_comprehension,
)
from pretrain.trl_loop import last_checkpoint
from pretrain.turns import FACTS, IGNORED, TASKS, Turns, turns, words_of
from rlnsp.config import ConfigError
from rlnsp.interruption import Interrupted
from tests.pretrain.conftest import MakeClips

TINY = ComprehensionConfig(
    vocab_size=280,
    width=32,
    layers=2,
    heads=2,
    vision_width=32,
    vision_layers=1,
    steps=4,
    batch_size=4,
    save_every=2,
)


@pytest.fixture
def clips(make_clips: MakeClips) -> Clips:
    return make_clips(4, frames=9, height=32, width=32)


@pytest.fixture
def comprehension(clips: Clips) -> Comprehension:
    torch.manual_seed(0)
    texts = [f"{scene.context} {scene.caption}" for scene in clips.scenes]
    return build_comprehension(TINY, texts, 32)


def rows(clips: Clips) -> list[dict[str, Any]]:
    asked: Any = turns(clips, "train", 0)
    return [row for row in asked if row["task"] != "echo"]


def test_labels_are_the_answer_and_its_end_and_nothing_else(
    comprehension: Comprehension, clips: Clips
) -> None:
    asked = rows(clips)
    batch = Turns(comprehension=comprehension, clips={"train": clips})(asked)

    def read(ids: torch.Tensor) -> str:
        return str(comprehension.tokenizer.decode(ids))

    for row, ids, labels, mask in zip(
        asked, batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True
    ):
        scene = clips.scenes[row["row"]]
        judged = "Pass" if row["passes"] else "Fail"
        answer = judged if row["task"] == "judge" else scene.caption
        assert read(labels[labels != IGNORED]) == f"{answer}<|im_end|>"
        text = read(ids[mask.bool()])
        assert text.startswith("<|im_start|>user\n")
        assert text.endswith(f"<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>")
        assert torch.equal(ids[labels != IGNORED], labels[labels != IGNORED])
        # Padding is on the right, and carries no loss.
        assert mask.tolist() == sorted(mask.tolist(), reverse=True)
        assert (labels[~mask.bool()] == IGNORED).all()


def test_a_clip_has_a_token_for_each_merged_patch_of_four_frames(
    comprehension: Comprehension, clips: Clips
) -> None:
    asked = [row for row in rows(clips) if row["task"] in ("describe", "next")]
    batch = Turns(comprehension=comprehension, clips={"train": clips})(asked)
    # 4 of the 9 frames; 32 pixels are 4 patches of 8, merged in twos.
    shown = torch.tensor([4 * 2 * 2 if row["task"] == "describe" else 0 for row in asked])
    is_image = batch["input_ids"] == comprehension.model.config.image_token_id
    assert torch.equal(is_image.sum(1), shown)
    assert torch.equal(batch["mm_token_type_ids"], is_image.int())
    assert batch["image_grid_thw"].tolist() == [[1, 4, 4]] * (4 * int((shown > 0).sum()))


def test_padding_and_other_rows_do_not_change_what_a_row_says(
    comprehension: Comprehension, clips: Clips
) -> None:
    collate = Turns(comprehension=comprehension, clips={"train": clips})
    asked = rows(clips)[::3]
    model = comprehension.model
    with torch.no_grad():
        together = model(**{k: v for k, v in collate(asked).items() if k != "labels"}).logits
        for i, row in enumerate(asked):
            alone = model(**{k: v for k, v in collate([row]).items() if k != "labels"}).logits[0]
            assert torch.allclose(together[i, : len(alone)], alone, atol=1e-4)


def test_a_prompt_is_tokenized_as_the_policy_tokenizes_it(comprehension: Comprehension, clips: Clips) -> None:
    row = next(row for row in rows(clips) if row["task"] == "next")
    batch = Turns(comprehension=comprehension, clips={"train": clips})([row])
    text = NEXT_SCENE.format(clips.scenes[row["row"]].context)
    prompt = comprehension._tokenize(text, [], 0)
    assert batch["input_ids"][0, : len(prompt)].tolist() == prompt
    assert batch["labels"][0, len(prompt)] != IGNORED


def test_each_scene_has_a_row_a_task_and_a_fail_shows_another_caption_of_its_kind(
    make_clips: MakeClips,
) -> None:
    clips = make_clips(60, frames=1, height=8, width=8)
    same = [
        replace(scene, caption="all alike") if row < 10 else scene for row, scene in enumerate(clips.scenes)
    ]
    clips = replace(clips, scenes=same)
    asked = rows(clips)
    assert [(row["task"], row["row"]) for row in asked] == [
        (task, row) for task in TASKS for row in range(60)
    ]
    fails = [row for row in asked if row["task"] == "judge" and not row["passes"]]
    assert 10 < len(fails) < 50
    for row in fails:
        scene, other = clips.scenes[row["row"]], clips.scenes[row["other"]]
        assert scene.columns["kind"] == other.columns["kind"]
        assert scene.caption != other.caption
    assert asked == rows(clips)


def test_facts_are_asked_for_of_context_and_caption_each_in_an_order_of_its_own(
    comprehension: Comprehension, clips: Clips
) -> None:
    facts = {"colour": "red", "thing": "ball", "way": "left"}
    scenes = [replace(scene, columns={**scene.columns, "facts": facts}) for scene in clips.scenes]
    known = replace(clips, scenes=scenes)
    asked = [row for row in rows(known) if row["task"] in FACTS]
    assert len(asked) == 2 * len(scenes)
    labels = Turns(comprehension=comprehension, clips={"train": known})(asked)["labels"]
    said = [str(comprehension.tokenizer.decode(row[row != IGNORED])) for row in labels]
    expected = sorted(f"{name}: {value}" for name, value in facts.items())
    for text in said:
        assert sorted(text.removesuffix(";<|im_end|>").split("; ")) == expected
    assert len(set(said)) > 1
    # Without a scene's facts there is nothing to ask.
    some = replace(clips, scenes=[*scenes[:-1], clips.scenes[-1]])
    assert {row["task"] for row in rows(some)} == set(TASKS)


def test_as_many_rows_again_echo_random_words_of_the_clips(
    comprehension: Comprehension, clips: Clips
) -> None:
    asked: Any = turns(clips, "train", 0)
    echoed = [row for row in asked if row["task"] == "echo"]
    assert len(echoed) == len(rows(clips))
    words = words_of(clips)
    collate = Turns(comprehension=comprehension, clips={"train": clips}, words=words)
    batch = collate(echoed)
    said = []
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        answer = str(comprehension.tokenizer.decode(labels[labels != IGNORED])).removesuffix("<|im_end|>")
        assert set(answer.split()) <= set(words)
        assert 6 <= len(answer.split()) < 20
        assert CAPTION.format(answer) in str(comprehension.tokenizer.decode(ids))
        said.append(answer)
    assert len(set(said)) == len(said)
    assert torch.equal(collate(echoed)["labels"], batch["labels"])


def test_a_saved_model_reads_and_answers_as_before(
    comprehension: Comprehension, clips: Clips, tmp_path: Path
) -> None:
    geometry = Geometry(num_frames=9, height=32, width=32, fps=8.0)
    save_policy(tmp_path / "policy", geometry=geometry, comprehension=comprehension)
    loaded = load_comprehension(Source(path=str(tmp_path / "policy" / "comprehension")))
    texts = [
        "then a 1",
        "  Two  spaces, 12 3.5\n\nnew",
        "é 漢字 <|im_end|> <|image_pad|>",
        "<|endoftext|>",
        "",
    ]
    for text in texts:
        for prompt in (text, comprehension.prompt(text, [2])):
            ids = comprehension.tokenizer(prompt)["input_ids"]
            assert loaded.tokenizer(prompt)["input_ids"] == ids
            assert comprehension.tokenizer.decode(ids) == loaded.tokenizer.decode(ids) == prompt
    for name in ("eos_token_id", "pad_token_id", "chat_template", "all_special_ids"):
        assert getattr(loaded.tokenizer, name) == getattr(comprehension.tokenizer, name)
    assert len(loaded.tokenizer) == len(comprehension.tokenizer)
    queries = torch.randn(3, TINY.width, generator=torch.Generator().manual_seed(0))
    told = [CAPTION.format("then a 1"), "longer than the other one, by far"]
    shown = [clips.frames[0], None]
    with torch.no_grad():
        assert torch.equal(loaded(told, queries, shown), comprehension(told, queries, shown))


def test_training_lowers_the_loss(clips: Clips, tmp_path: Path) -> None:
    config = replace(TINY, steps=30, save_every=15, learning_rate=1e-1)
    trained = train_comprehension(config, clips, clips, tmp_path)
    assert not trained.model.training
    assert not any(value.requires_grad for value in trained.model.parameters())
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [row["eval_loss"] for row in logged if "eval_loss" in row]
    assert len(losses) == 2
    # A model that knows nothing is at log(280) = 5.6.
    assert losses[1] < losses[0] < 5.4


def test_stopped_and_resumed_is_the_straight_run(
    clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = train_comprehension(TINY, clips, clips, tmp_path / "straight")
    calls = 0
    collate = Turns.__call__

    def interrupted(self: Turns, asked: list[dict[str, Any]]) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            signal.raise_signal(signal.SIGINT)
        return collate(self, asked)

    with monkeypatch.context() as patch:
        patch.setattr(Turns, "__call__", interrupted)
        with pytest.raises(Interrupted):
            train_comprehension(TINY, clips, clips, tmp_path / "cut")
    last = last_checkpoint(tmp_path / "cut")
    assert last is not None
    assert json.loads((last / "trainer_state.json").read_text())["global_step"] < 4
    # One that was cut off while it was written does not count.
    (tmp_path / "cut" / "checkpoint-4").mkdir()
    resumed = train_comprehension(TINY, clips, clips, tmp_path / "cut")
    again = train_comprehension(TINY, clips, clips, tmp_path / "cut")
    for name, value in straight.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
        assert torch.equal(again.model.state_dict()[name], value), name


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="width must be a multiple of 4 x heads; got 30 and 2"):
        ComprehensionConfig(width=30, heads=2)
    with pytest.raises(ConfigError, match="comprehension.steps must be at least 1; got 0"):
        ComprehensionConfig(steps=0)
