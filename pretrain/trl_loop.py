"""TRL's trainer as a stage: it goes on from its newest checkpoint, and stops between two steps, saved."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from rlnsp.interruption import Interrupted, Interruption
from rlnsp.pretrained import without_bars


def trl_arguments(
    folder: Path,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    save_every: int,
    seed: int,
    warmup_steps: int = 100,
) -> SFTConfig:
    """Full precision, one optimiser step a batch, a cosine after a warm-up.

    Args:
        folder: gets the checkpoints.
        steps: in all.
        batch_size: rows of a step.
        learning_rate: the peak.
        save_every: steps between checkpoints, and between evaluations.
        seed: of the order of the rows.
        warmup_steps: in which the rate rises to its peak.
    """
    with warnings.catch_warnings():
        # Newer releases of transformers have another name for it, which older ones do not know.
        warnings.filterwarnings("ignore", "`gradient_checkpointing` is deprecated", FutureWarning)
        return SFTConfig(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=batch_size,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=warmup_steps,
            weight_decay=0.01,
            max_grad_norm=1.0,
            bf16=False,
            gradient_checkpointing=False,
            eval_strategy="steps",
            eval_steps=save_every,
            save_steps=save_every,
            save_total_limit=1,
            logging_steps=50,
            report_to=[],
            seed=seed,
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            use_cpu=not torch.cuda.is_available(),
            dataloader_num_workers=0,
        )


def run_stage(trainer: SFTTrainer, model: Qwen2_5_VLForConditionalGeneration, folder: Path) -> None:
    """Train ``model``, which is the trainer's, up to its ``max_steps``; leaves it in eval mode, frozen.

    Args:
        trainer: made, not begun.
        model: trained in place.
        folder: the trainer's ``output_dir``; gets ``metrics.jsonl``.

    Raises:
        Interrupted: stopped between two steps and saved; the same call goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    last = last_checkpoint(folder)
    if last is not None:
        with without_bars():
            saved = Qwen2_5_VLForConditionalGeneration.from_pretrained(last, dtype=torch.float32)
        model.load_state_dict(saved.state_dict())
    if last is None or _step(last) < trainer.args.max_steps:  # of a finished one, TRL would take a step more
        with Interruption() as interruption, ExitStack() as held, _quiet_about_names():
            held.enter_context(interruption.held())
            trainer.add_callback(_StopsBetweenSteps(interruption, held))
            trainer.train(resume_from_checkpoint=str(last) if last else None)
        with (folder / "metrics.jsonl").open("w", encoding="utf-8") as log:
            log.writelines(json.dumps(row) + "\n" for row in trainer.state.log_history)
    model.requires_grad_(False).eval()


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
