"""Stage 0: a small Qwen2.5-VL learns to caption clips and to say what follows a scene, by TRL's SFTTrainer.

At the paper's scale there is nothing to do here: Qwen2.5-VL-7B comes trained.
"""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from policies.unified.comprehension import CAPTION, NEXT_SCENE, Comprehension
from pretrain.clips import Clips
from pretrain.tokenizer import build_tokenizer
from pretrain.turns import DESCRIBE, JUDGE, Turns, turns, words_of
from rlnsp.interruption import Interrupted, Interruption
from rlnsp.pretrained import without_bars
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
    arguments = _arguments(config, folder)
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
    folder.mkdir(parents=True, exist_ok=True)
    last = last_checkpoint(folder)
    if last is not None:
        with without_bars():
            saved = Qwen2_5_VLForConditionalGeneration.from_pretrained(last, dtype=torch.float32)
        model.load_state_dict(saved.state_dict())
    if last is None or _step(last) < config.steps:  # of a finished one, TRL would take a step more
        with Interruption() as interruption, ExitStack() as held, _quiet_about_names():
            held.enter_context(interruption.held())
            trainer.add_callback(_StopsBetweenSteps(interruption, held))
            trainer.train(resume_from_checkpoint=str(last) if last else None)
        with (folder / "metrics.jsonl").open("w", encoding="utf-8") as log:
            log.writelines(json.dumps(row) + "\n" for row in trainer.state.log_history)
    model.requires_grad_(False).eval()
    return comprehension


def _arguments(config: ComprehensionConfig, folder: Path) -> SFTConfig:
    with warnings.catch_warnings():
        # Newer releases of transformers have another name for it, which older ones do not know.
        warnings.filterwarnings("ignore", "`gradient_checkpointing` is deprecated", FutureWarning)
        return SFTConfig(
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


@contextmanager
def _quiet_about_names() -> Iterator[None]:
    """Without transformers' warning that a checkpoint's names fit nothing.

    It saves weights by the hub's names and reads them back by the module's, so that its trainer finds none of
    Qwen2.5-VL's on resuming (5.23); they have been loaded by then.
    """
    log = logging.getLogger("transformers.trainer")

    def wanted(record: logging.LogRecord) -> bool:
        return "in the checkpoint model loaded" not in record.getMessage()

    log.addFilter(wanted)
    try:
        yield
    finally:
        log.removeFilter(wanted)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest of TRL's checkpoints that is whole: one cut off while it was written lacks the last file."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return max(whole, key=_step, default=None)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


class _StopsBetweenSteps(TrainerCallback):
    """Lets a held signal through only after a step, and then has TRL save before it ends."""

    def __init__(self, interruption: Interruption, held: ExitStack) -> None:
        self.interruption, self.held = interruption, held

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Look whether a signal came."""
        try:
            self.held.close()
        except Interrupted:
            control.should_save = control.should_training_stop = True
        # Raises again when train() is left.
        self.held.enter_context(self.interruption.held())
