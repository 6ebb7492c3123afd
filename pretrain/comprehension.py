"""Stage 0: a small Qwen2.5-VL learns to caption clips and to say what follows a scene, by TRL's SFTTrainer.

At the paper's scale there is nothing to do here: Qwen2.5-VL-7B comes trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from trl.trainer.sft_trainer import SFTTrainer

from policies.unified.comprehension import CAPTION, NEXT_SCENE, Comprehension
from pretrain.clips import Clips
from pretrain.tokenizer import build_tokenizer
from pretrain.trl_loop import run_stage, trl_arguments
from pretrain.turns import DESCRIBE, JUDGE, Turns, turns, words_of
from rlnsp.settings import ConfigError


@dataclass(frozen=True, kw_only=True)
class ComprehensionConfig:
    """The model's size and how it trains."""

    vocab_size: int = 640
    width: int = 128
    layers: int = 4
    heads: int = 8
    vision_width: int = 96
    vision_layers: int = 3
    patch_size: int = 8
    steps: int = 3000
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    save_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "vision_layers", "patch_size", "steps", "batch_size", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"comprehension.{name} must be at least 1; got {getattr(self, name)}")
        for name in ("width", "vision_width"):
            # Rotary positions take halves of a head, and Qwen-VL's vision tower quarters.
            if self.heads < 1 or getattr(self, name) % (4 * self.heads):
                given = f"{getattr(self, name)} and {self.heads}"
                raise ConfigError(f"comprehension.{name} must be a multiple of 4 x heads; got {given}")


def build_comprehension(config: ComprehensionConfig, corpus: Sequence[str], frame_size: int) -> Comprehension:
    """A randomly initialised model, with a tokenizer made from ``corpus``; seeded by the caller."""
    tokenizer = build_tokenizer(corpus, config.vocab_size)
    ids: dict[str, Any] = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in _VISION_TOKENS}
    size = sizes(config, len(tokenizer), frame_size)
    size["text_config"] |= {
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    made = Qwen2_5_VLConfig(
        **size,
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
    )
    pixels = frame_size * frame_size
    images = Qwen2VLImageProcessorPil(
        patch_size=config.patch_size, merge_size=2, min_pixels=pixels, max_pixels=pixels
    )
    return Comprehension(Qwen2_5_VLForConditionalGeneration(made), tokenizer, images)


def sizes(config: ComprehensionConfig, vocab_size: int, frame_size: int) -> dict[str, Any]:
    """The model's own settings, without the numbers of its tokens, of which there are ``vocab_size``."""
    head = config.width // config.heads
    section = [head // 2 - 2 * (head // 2 * 3 // 8), head // 2 * 3 // 8, head // 2 * 3 // 8]
    return {
        "text_config": {
            "vocab_size": vocab_size,
            "hidden_size": config.width,
            "intermediate_size": 3 * config.width,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": max(config.heads // 2, 1),
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": section},
        },
        "vision_config": {
            "depth": config.vision_layers,
            "hidden_size": config.vision_width,
            "intermediate_size": 3 * config.vision_width,
            "num_heads": config.heads,
            "patch_size": config.patch_size,
            "window_size": frame_size,
            "fullatt_block_indexes": list(range(config.vision_layers)),
            "out_hidden_size": config.width,
        },
        "tie_word_embeddings": True,
    }


_VISION_TOKENS = ("vision_start", "vision_end", "image_pad", "video_pad")


def train_comprehension(
    config: ComprehensionConfig, train: Clips, heldout: Clips, folder: Path
) -> Comprehension:
    """Train from nothing, or on from the newest checkpoint; returns the model in eval mode, frozen.

    Raises:
        Interrupted: stopped between two steps and saved; the same call goes on.
    """
    torch.manual_seed(config.seed)
    corpus = [text for scene in train.scenes for text in (scene.context, scene.caption or "")]
    corpus += [DESCRIBE, JUDGE, NEXT_SCENE, CAPTION, "Pass", "Fail", "user\n", "assistant\n"]
    corpus += [f"{name}: {value};" for name, value in train.scenes[0].columns.get("facts", {}).items()]
    comprehension = build_comprehension(config, corpus, train.frames.shape[2])
    model = comprehension.model.requires_grad_(True).train()
    arguments = trl_arguments(
        folder,
        steps=config.steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        save_every=config.save_every,
        seed=config.seed,
    )
    asked = turns(heldout, "heldout", config.seed + 1)
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=turns(train, "train", config.seed),
        eval_dataset=asked.shuffle(seed=0).select(range(min(512, len(asked)))),
        data_collator=Turns(
            comprehension=comprehension,
            clips={"train": train, "heldout": heldout},
            words=words_of(train),
        ),
        processing_class=comprehension.tokenizer,
    )
    run_stage(trainer, model, folder)
    return comprehension
