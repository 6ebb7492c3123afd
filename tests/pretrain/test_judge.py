import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pretrain.judge import CHAT_TEMPLATE, JudgeConfig, Part, loss_of_turns, train_judge
from pretrain.judge_clips import PART, true_clips
from pretrain.judge_turns import Turn
from pretrain.tokenizer import CHAT_TEMPLATE as TEXT_TEMPLATE
from pretrain.tokenizer import byte_tokenizer
from pretrain.turns import IGNORED
from rlnsp.settings import ConfigError

SHORT = Part(steps=2, rate=1e-3, described=0.5)
TINY = JudgeConfig(
    generated=2 * PART,
    true=2,
    faulty=2,
    clip_frames=2,
    seeing_steps=2,
    training=SHORT,
    captions=SHORT,
    calibration=SHORT,
    calibration_clips=2,
    batch_size=2,
)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose generated clips are there, few of them different: labelling them takes long."""
    folder = tmp_path_factory.mktemp("judge")
    (folder / "clips").mkdir()
    _, clips = true_clips("train", 4, np.random.default_rng(0))
    frames = torch.from_numpy(clips).repeat(PART // 4, 1, 1, 1, 1)
    for part in range(TINY.generated // PART):
        save_file({"frames": frames}, folder / "clips" / f"generated-{TINY.first_scenes + part}.safetensors")
    return folder


@pytest.fixture
def labelled(monkeypatch) -> None:
    import pretrain.judge as judge

    whole = judge.shown
    monkeypatch.setattr(
        judge, "shown", lambda clips, asked: whole(clips[:4], asked[:4]) * -(-len(asked) // 4)
    )
    monkeypatch.setattr(judge, "HELD_OUT", 1)
    turn = Turn("Is it?", "Fail")
    monkeypatch.setattr(judge, "own_verdicts", lambda comprehension, kept, clips, n, seed: [turn] * n)


def test_a_judge_is_trained_from_the_comprehension_model_and_a_second_call_does_nothing_more(
    begun: Path, labelled
) -> None:
    made = train_judge(TINY, begun)
    assert not made.model.training
    assert not any(value.requires_grad for value in made.model.parameters())
    assert made.tokenizer.chat_template == CHAT_TEMPLATE
    for stage in ("training", "captions", "calibration"):
        lines = [json.loads(line) for line in (begun / stage / "metrics.jsonl").read_text().splitlines()]
        assert any("eval_loss" in line for line in lines)
    took = json.loads((begun / "time.json").read_text())
    assert took["cpu_seconds"] > 0
    again = train_judge(TINY, begun)
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, made.model.state_dict()[name]), name
    assert json.loads((begun / "time.json").read_text())["seconds"] > took["seconds"]
    with pytest.raises(ConfigError, match="captions.steps was 2, now 3"):
        train_judge(replace(TINY, captions=replace(SHORT, steps=3)), begun)


@pytest.mark.parametrize(
    ("name", "value"), [("true", 0), ("generated", PART), ("generated", PART + 1), ("clip_frames", 0)]
)
def test_settings_that_cannot_be_are_refused(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"judge.{name} must be .*; got {value}"):
        JudgeConfig(**{name: value})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="steps must be at least 1; got 0"):
        replace(SHORT, steps=0)


def test_a_turn_in_parts_reads_as_the_text_that_the_judge_was_trained_on() -> None:
    tokenizer = byte_tokenizer()

    def rendered(template: str, content: object) -> str:
        turn = [{"role": "user", "content": content}]
        return str(
            tokenizer.apply_chat_template(
                turn, chat_template=template, tokenize=False, add_generation_prompt=True
            )
        )

    frame = "<|vision_start|><|image_pad|><|vision_end|>"
    parts = [{"type": "image"}, {"type": "image_url"}, {"type": "text", "text": "Describe the video."}]
    whole = f"{frame}{frame}Describe the video."
    assert rendered(CHAT_TEMPLATE, parts) == rendered(TEXT_TEMPLATE, whole)
    assert rendered(CHAT_TEMPLATE, "Plain.") == rendered(TEXT_TEMPLATE, "Plain.")


def test_a_verdict_of_one_token_weighs_as_much_as_a_long_caption() -> None:
    labels = torch.tensor([[IGNORED, 1, 2, 3], [IGNORED, IGNORED, 2, IGNORED]])
    logits = torch.zeros(2, 4, 5)
    logits[0, [0, 1, 2], [1, 2, 3]] = 100.0  # of the caption's three tokens each is sure
    # The verdict's is one of five, all as likely: ln 5 of it, over two turns.
    assert loss_of_turns(logits, labels).item() == pytest.approx(np.log(5) / 2)
    # What stands at the last position foretells nothing, and what is no answer does not count.
    logits[:, 3], logits[1, 0] = 50 * torch.eye(5)[0], 50 * torch.eye(5)[4]
    assert loss_of_turns(logits, labels).item() == pytest.approx(np.log(5) / 2)
