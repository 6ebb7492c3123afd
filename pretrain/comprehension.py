"""Stage 0: a small Qwen2.5-VL learns to caption clips and to say what follows a scene, by TRL's SFTTrainer.

At the paper's scale there is nothing to do here: Qwen2.5-VL-7B comes trained.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer

from policies.unified.comprehension import CAPTION, NEXT_SCENE, Comprehension
from pretrain.clips import Clips
from rlnsp.types import Scene

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DESCRIBE = "Describe the video."
JUDGE = "Preceding scene: {context}\nNext scene: {caption}\nIs the next scene causally consistent? Answer Pass or Fail."
IGNORED = -100

Task = Literal["describe", "next", "repeat", "judge"]
TASKS: tuple[Task, ...] = ("describe", "next", "repeat", "judge")


@dataclass(frozen=True, kw_only=True)
class ComprehensionConfig:
    """The model's size and how it trains."""

    vocab_size: int = 640
    width: int = 128
    layers: int = 4
    heads: int = 4
    vision_width: int = 96
    vision_layers: int = 3
    patch_size: int = 8
    steps: int = 3000
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    save_every: int = 500
    seed: int = 0


def build_comprehension(config: ComprehensionConfig, corpus: Sequence[str], frame_size: int) -> Comprehension:
    """A randomly initialised model, with a tokenizer made from ``corpus``; seeded by the caller."""
    tokenizer = build_tokenizer(corpus, config.vocab_size)
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in _VISION_TOKENS}
    head = config.width // config.heads
    section = [head // 2 - 2 * (head // 2 * 3 // 8), head // 2 * 3 // 8, head // 2 * 3 // 8]
    made = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": config.width,
            "intermediate_size": 3 * config.width,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": max(config.heads // 2, 1),
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": section},
            "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": config.vision_layers,
            "hidden_size": config.vision_width,
            "intermediate_size": 3 * config.vision_width,
            "num_heads": config.heads,
            "patch_size": config.patch_size,
            "window_size": frame_size,
            "fullatt_block_indexes": list(range(config.vision_layers)),
            "out_hidden_size": config.width,
        },
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        tie_word_embeddings=True,
    )
    pixels = frame_size * frame_size
    images = Qwen2VLImageProcessorPil(
        patch_size=config.patch_size, merge_size=2, min_pixels=pixels, max_pixels=pixels
    )
    return Comprehension(Qwen2_5_VLForConditionalGeneration(made), tokenizer, images)


_VISION_TOKENS = ("vision_start", "vision_end", "image_pad", "video_pad")


def build_tokenizer(corpus: Sequence[str], vocab_size: int) -> Qwen2Tokenizer:
    """Byte-level BPE of ``corpus`` in Qwen2's format, with Qwen's special tokens and chat format."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    bytes_only = Qwen2Tokenizer(vocab=vocab, merges=[], additional_special_tokens=list(SPECIAL[1:]))
    tokenizer = bytes_only.train_new_from_iterator(corpus, vocab_size, show_progress=False)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.pad_token = "<|endoftext|>"
    return tokenizer


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Collates rows of ``turns`` into a batch of chat turns; only answers carry a loss."""

    comprehension: Comprehension
    clips: dict[str, Clips]
    """By split."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """input_ids, attention_mask, labels, mm_token_type_ids (B, L), and the pixels of the clips that are shown."""
        tokens, answers, pixels, grids = [], [], [], []
        for row in rows:
            question, answer, clip = self._turn(row)
            counts: list[int] = []
            if clip is not None:
                images = self.comprehension.images(clip)
                pixels.append(images["pixel_values"])
                grids.append(images["image_grid_thw"])
                merge = self.comprehension.image_processor.merge_size**2
                counts = (images["image_grid_thw"].prod(-1) // merge).tolist()
            tokens.append(
                self.comprehension.tokenizer(self.comprehension.prompt(question, counts))["input_ids"]
            )
            answers.append(self.comprehension.tokenizer(answer + "<|im_end|>")["input_ids"])
        longest = max(len(a) + len(b) for a, b in zip(tokens, answers, strict=True))
        ids = torch.full((len(rows), longest), self.comprehension.tokenizer.pad_token_id)
        labels = torch.full_like(ids, IGNORED)
        mask = torch.zeros_like(ids)
        for i, (prompt, answer) in enumerate(zip(tokens, answers, strict=True)):
            whole = len(prompt) + len(answer)
            ids[i, :whole] = torch.tensor(prompt + answer)
            labels[i, len(prompt) : whole] = torch.tensor(answer)
            mask[i, :whole] = 1
        is_image = (ids == self.comprehension.model.config.image_token_id).int()
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels, "mm_token_type_ids": is_image}
        if pixels:
            batch |= {"pixel_values": torch.cat(pixels), "image_grid_thw": torch.cat(grids)}
        return batch

    def _turn(self, row: dict[str, Any]) -> tuple[str, str, np.ndarray | None]:
        clips = self.clips[row["split"]]
        scene: Scene = clips.scenes[row["row"]]
        caption = scene.caption or ""
        match row["task"]:
            case "describe":
                return DESCRIBE, caption, clips.frames[row["row"]]
            case "next":
                return NEXT_SCENE.format(scene.context), caption, None
            case "repeat":
                return CAPTION.format(caption), caption, None
        other = clips.scenes[row["other"]].caption or ""
        shown = caption if row["passes"] else other
        return JUDGE.format(context=scene.context, caption=shown), "Pass" if row["passes"] else "Fail", None


def turns(clips: Clips, split: str, seed: int) -> Dataset:
    """One row a scene and task; half of the judged captions are another scene's, of the same kind where known."""
    rng = np.random.default_rng(seed)
    kinds = np.array([str(scene.columns.get("kind", "")) for scene in clips.scenes])
    places = {kind: np.flatnonzero(kinds == kind) for kind in set(kinds)}
    rows = []
    for task in TASKS:
        for row, kind in enumerate(kinds):
            # The other scene may happen to say the same: then it is no Fail.
            other = int(rng.choice(places[kind]))
            passes = bool(rng.random() < 0.5) or clips.scenes[other].caption == clips.scenes[row].caption
            rows.append({"split": split, "row": row, "task": task, "other": other, "passes": passes})
    return Dataset.from_list(rows)


def train_comprehension(
    config: ComprehensionConfig, train: Clips, heldout: Clips, folder: Path
) -> Comprehension:
    """Train from nothing; returns the model in eval mode, frozen."""
    torch.manual_seed(config.seed)
    corpus = [text for scene in train.scenes for text in (scene.context, scene.caption or "")]
    corpus += [DESCRIBE, JUDGE, NEXT_SCENE, CAPTION, "Pass", "Fail", "user\n", "assistant\n"]
    comprehension = build_comprehension(config, corpus, train.frames.shape[2])
    model = comprehension.model.requires_grad_(True).train()
    arguments = SFTConfig(
        output_dir=str(folder),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=100,
        weight_decay=0.01,
        max_grad_norm=1.0,
        bf16=False,
        gradient_checkpointing=False,
        eval_strategy="steps",
        eval_steps=config.save_every,
        save_steps=config.save_every,
        save_total_limit=1,
        logging_steps=50,
        report_to=[],
        seed=config.seed,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        use_cpu=not torch.cuda.is_available(),
        dataloader_num_workers=0,
    )
    asked = turns(heldout, "heldout", config.seed + 1)
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=turns(train, "train", config.seed),
        eval_dataset=asked.shuffle(seed=0).select(range(min(512, len(asked)))),
        data_collator=Turns(comprehension=comprehension, clips={"train": train, "heldout": heldout}),
        processing_class=comprehension.tokenizer,
    )
    folder.mkdir(parents=True, exist_ok=True)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as log:
        log.writelines(json.dumps(row) + "\n" for row in trainer.state.log_history)
    model.requires_grad_(False).eval()
    return comprehension
