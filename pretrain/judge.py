"""A judge of the embedded world: the comprehension model goes on to learn from what a policy makes, by TRL.

What a clip shows and whether that follows, the tracker says.  Captions are those of ``pretrain.recognition``.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import Qwen2_5_VLForConditionalGeneration
from trl.trainer.sft_trainer import SFTTrainer

from policies.settings import Source
from policies.unified import files, weights
from policies.unified.comprehension import CAPTION, NEXT_SCENE, Comprehension
from policies.unified.policy import Unified
from policies.unified.settings import Limits
from pretrain.judge_answers import own_verdicts
from pretrain.judge_clips import PART, Frames, faulty, generated_clips, true_clips
from pretrain.judge_turns import JudgeTurns, Shown, Turn, description, form, read_shown, shown, verdict
from pretrain.marks import check_same, read_json, write_json
from pretrain.seeing import learn_to_see
from pretrain.trl_loop import last_checkpoint, run_stage, trl_arguments
from pretrain.turns import IGNORED, batch_of
from pretrain.wider_heads import heads_to_keep, with_wider_heads
from rlnsp import config as configs
from rlnsp.settings import ConfigError
from rlnsp.world import language

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% else %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As the comprehension model's, and of messages in parts, as servers get them.  Nothing stands between two
frames, so that a server reads what the model was trained on."""
PROBE = 24
"""True clips that tell which heads are missed."""
HELD_OUT = 64
"""True clips of held-out scenes, and as many faulty ones, for the curves."""

OWN = 0.65
"""Of the verdicts that calibrate, so many are on its own captions; from them alone, which mostly agree with
the scene, it forgets to fail those that do not."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One cosine of the training."""

    steps: int
    rate: float
    """The peak of the learning rate."""
    warmup: int = 20
    """Steps until that."""
    described: float
    """Share of turns that are captions; the others are verdicts."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"judge: a part's steps must be at least 1; got {self.steps}")


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """What the judge learns from, and how."""

    policy: str = "world"
    """A policy folder: whose clips are judged, and whose comprehension model the judge starts as."""
    generated: int = 1600
    """The policy's clips; a multiple of ``PART``.  The last ``PART`` are kept for calibration."""
    true: int = 2400
    faulty: int = 1200
    heads: int = 4
    """Of its attention, in a layer: vLLM's kernels for CPUs want heads of 32 at least; 8 heads have 16."""
    clip_frames: int = 5
    """Evenly spaced frames that it is shown of a clip."""
    seeing_steps: int = 250
    """Of the vision tower alone, before the others."""
    training: Part = Part(steps=550, rate=1e-3, warmup=100, described=0.7)
    """Captions and verdicts."""
    captions: Part = Part(steps=300, rate=7e-4, described=0.9)
    """Mostly captions: verdicts are learned sooner."""
    calibration: Part = Part(steps=120, rate=3e-4, described=0.2)
    """Verdicts, most of them on its own captions."""
    calibration_clips: int = 800
    """Forms of clips kept for that, whose own captions it learns to trust as far as they deserve."""
    batch_size: int = 32
    save_every: int = 100
    first_scenes: int = 1001
    """The seed of the first ``PART`` scenes."""
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        for name in (
            "generated",
            "true",
            "faulty",
            "clip_frames",
            "seeing_steps",
            "calibration_clips",
            "batch_size",
            "save_every",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"judge.{name} must be at least 1; got {getattr(self, name)}")
        if self.generated % PART or self.generated <= PART:
            raise ConfigError(
                f"judge.generated must be a multiple of {PART}, two at least; got {self.generated}"
            )


def train_judge(config: JudgeConfig, folder: Path) -> Comprehension:
    """Train, or go on from what lies in ``folder``; returns the model in eval mode, frozen.

    Raises:
        ConfigError: the folder was begun with other settings, or there is no such policy.
        Interrupted: stopped and saved; the same call goes on.
    """
    torch.set_num_threads(config.threads)
    # Activations near zero are otherwise computed as denormals, many times slower on a CPU.
    torch.set_flush_denormal(True)
    begun = folder / "settings.json"
    if begun.is_file():
        check_same(folder, read_json(begun), asdict(config))
    write_json(begun, asdict(config))
    with _timed(folder / "time.json"):
        return _trained(config, folder)


def _trained(config: JudgeConfig, folder: Path) -> Comprehension:
    start = files.policy_folder(config.policy)
    clips, known, kept, unseen = _clips(config, start, folder)
    comprehension = weights.load_comprehension(
        Source(path=str(start / "comprehension")), limits=Limits(clip_frames=config.clip_frames)
    )
    torch.manual_seed(config.seed)
    comprehension.model = _with_heads(comprehension, config)
    if last_checkpoint(folder / "training") is None:
        losses = learn_to_see(comprehension, clips, known, steps=config.seeing_steps, seed=config.seed)
        write_json(folder / "seeing.json", {"loss": losses})

    def described(rng: np.random.Generator) -> Turn:
        return description(form(known[rng.integers(len(known))], rng), clips)

    def judged(rng: np.random.Generator) -> Turn:
        return verdict(form(known[rng.integers(len(known))], rng), rng)

    asked = {
        "describe unseen": lambda rng: description(unseen[rng.integers(len(unseen))], clips),
        "judge unseen": lambda rng: verdict(unseen[rng.integers(len(unseen))], rng),
    }
    lessons = {"describe": described, "judge": judged} | asked
    _train(config, config.training, comprehension, lessons, folder / "training")
    _train(config, config.captions, comprehension, lessons, folder / "captions")
    own = _kept(
        folder / "own.json",
        lambda: own_verdicts(comprehension, kept, clips, config.calibration_clips, config.seed),
    )
    lessons["judge"] = lambda rng: own[rng.integers(len(own))] if rng.random() < OWN else judged(rng)
    _train(config, config.calibration, comprehension, lessons, folder / "calibration")
    comprehension.tokenizer.chat_template = CHAT_TEMPLATE
    return comprehension


def _train(
    config: JudgeConfig,
    part: Part,
    comprehension: Comprehension,
    lessons: Mapping[str, Callable[[np.random.Generator], Turn]],
    folder: Path,
) -> None:
    rng = np.random.default_rng([config.seed, *folder.name.encode()])
    model = comprehension.model.requires_grad_(True).train()
    arguments = trl_arguments(
        folder,
        steps=part.steps,
        batch_size=config.batch_size,
        learning_rate=part.rate,
        save_every=config.save_every,
        seed=config.seed,
        warmup_steps=part.warmup,
    )
    trainer = _TurnTrainer(
        model=model,
        args=arguments,
        train_dataset=_rows("describe", "judge", part, part.steps * config.batch_size, rng),
        eval_dataset=_rows("describe unseen", "judge unseen", part, 4 * HELD_OUT, rng),
        data_collator=JudgeTurns(comprehension=comprehension, lessons=lessons),
        processing_class=comprehension.tokenizer,
    )
    run_stage(trainer, model, folder)


def _rows(describe: str, judge: str, part: Part, n: int, rng: np.random.Generator) -> Dataset:
    return Dataset.from_list(
        [
            {
                "lesson": describe if rng.random() < part.described else judge,
                "seed": int(rng.integers(2**31)),
            }
            for _ in range(n)
        ]
    )


class _TurnTrainer(SFTTrainer):
    """Each turn counts the same: of all answers' tokens, those of verdicts are one in fifty."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The mean over turns of the mean over the answer's tokens."""
        labels = inputs["labels"]
        outputs = model(
            **{name: value for name, value in inputs.items() if name != "labels"}, use_cache=False
        )
        loss = loss_of_turns(outputs.logits, labels)
        return (loss, outputs) if return_outputs else loss


def loss_of_turns(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over turns of the mean over the answer's tokens, in nats.

    Args:
        logits: (B, L, V); those at a token are of the next one.
        labels: (B, L); ``IGNORED`` but for answers.
    """
    asked = labels[:, 1:]
    losses = cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), asked.flatten(), ignore_index=IGNORED, reduction="none"
    )
    tokens = (asked != IGNORED).sum(1)
    return (losses.view_as(asked).sum(1) / tokens).mean()


@contextmanager
def _timed(path: Path) -> Iterator[None]:
    """Adds what is done inside to what earlier sittings took."""
    before = read_json(path) if path.is_file() else {"seconds": 0.0, "cpu_seconds": 0.0}
    wall, cpu = time.monotonic(), time.process_time()
    try:
        yield
    finally:
        took = {"seconds": time.monotonic() - wall, "cpu_seconds": time.process_time() - cpu}
        write_json(path, {name: round(before[name] + took[name], 1) for name in took})


def _clips(
    config: JudgeConfig, start: Path, folder: Path
) -> tuple[Frames, list[Shown], list[Shown], list[Shown]]:
    """All clips (R, F, H, W, 3); those to learn from, to calibrate by, and of held-out scenes."""
    rng = np.random.default_rng(config.seed)
    policy = Unified(Unified.Config(folder=str(start), device="cpu"))
    sampler = configs.load("world", []).sampler
    events, made = generated_clips(
        policy, sampler, config.generated // PART, config.first_scenes, folder / "clips"
    )
    kept_events, kept, events, made = events[-PART:], made[-PART:], events[:-PART], made[:-PART]
    true_events, true = true_clips("train", config.true, rng)
    events, made = events + true_events, np.concatenate([made, true])
    rows = rng.choice(len(events), config.faulty)
    events, made = events + [events[row] for row in rows], np.concatenate([made, faulty(made[rows], rng)])
    unseen_events, unseen = true_clips("heldout", HELD_OUT, rng)
    clips = np.concatenate([made, kept, unseen, faulty(unseen, rng)])
    path = folder / "shown.json"
    if not path.is_file():  # it takes minutes
        found = shown(clips, events + kept_events + 2 * unseen_events)
        write_json(path, {"shown": [asdict(one) for one in found]})
    all_shown = [read_shown(entry) for entry in read_json(path)["shown"]]
    first, last = len(made), len(made) + len(kept)
    return clips, all_shown[:first], all_shown[first:last], all_shown[last:]


def _with_heads(comprehension: Comprehension, config: JudgeConfig) -> Qwen2_5_VLForConditionalGeneration:
    """The model with as many heads as asked for: those by which it captions, and finds facts in a text."""
    rng = np.random.default_rng(config.seed)
    events, clips = true_clips("train", PROBE, rng)
    turns = [description(one, clips) for one in shown(clips, events)]
    for turn, event in zip(turns[:PROBE], events, strict=True):
        told = language.facts(event, event.direction)
        facts = " ".join(f"{name}: {told[name]};" for name in rng.permutation(list(told)))
        scene = language.describe(event, rng)
        turns += [Turn(NEXT_SCENE.format(scene), facts), Turn(CAPTION.format(turn.answer), facts)]
    batches = (batch_of(comprehension, [turn]) for turn in turns)
    return with_wider_heads(comprehension.model, heads_to_keep(comprehension.model, config.heads, batches))


def _kept(path: Path, make: Callable[[], list[Turn]]) -> list[Turn]:
    """What was made once; it takes minutes."""
    if not path.is_file():
        write_json(path, {"turns": [{"question": turn.question, "answer": turn.answer} for turn in make()]})
    return [Turn(**turn) for turn in read_json(path)["turns"]]
