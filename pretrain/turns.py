"""Chat turns for the comprehension model: describe, foretell, repeat, judge, list facts; as TRL's batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from policies.unified.comprehension import CAPTION, NEXT_SCENE, Comprehension
from pretrain.clips import Clips
from rlnsp.types import Scene

DESCRIBE = "Describe the video."
JUDGE = (
    "Preceding scene: {context}\nNext scene: {caption}\n"
    "Is the next scene causally consistent? Answer Pass or Fail."
)
IGNORED = -100

ECHO_WORDS = (6, 20)

Task = Literal["describe", "next", "repeat", "judge", "echo", "facts of the context", "facts of the caption"]
TASKS: tuple[Task, ...] = ("describe", "next", "repeat", "judge")
FACTS: tuple[Task, ...] = ("facts of the context", "facts of the caption")
"""For scenes with a column ``facts``, a mapping of names to values, asked for in random order.

Each name must draw its own value out of the text; latent queries, which stand where the answer does, learn
to do what such names do.  A model that only ever says captions holds nothing but their first word there.
"""


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Collates rows of ``turns`` into a batch of chat turns; only answers carry a loss."""

    comprehension: Comprehension
    clips: Mapping[str, Clips]
    """By split."""
    words: Sequence[str] = ()
    """What the task ``echo`` draws from."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """input_ids, attention_mask, labels, mm_token_type_ids (B, L), and the pixels of the clips shown."""
        return batch_of(self.comprehension, [self._turn(row) for row in rows])

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
            case "echo":
                text = _random_words(self.words, row["order"])
                return CAPTION.format(text), text, None
            case "facts of the context":
                return NEXT_SCENE.format(scene.context), _listed(scene, row["order"]), None
            case "facts of the caption":
                return CAPTION.format(caption), _listed(scene, row["order"]), None
        other = clips.scenes[row["other"]].caption or ""
        shown = caption if row["passes"] else other
        return JUDGE.format(context=scene.context, caption=shown), "Pass" if row["passes"] else "Fail", None


def batch_of(
    comprehension: Comprehension, turns: Sequence[tuple[str, str, np.ndarray | None]]
) -> dict[str, Tensor]:
    """A training batch of (question, answer, clip (F, H, W, 3) or None); only answers carry a loss.

    Returns:
        input_ids, attention_mask, labels, mm_token_type_ids (B, L), and the pixels of the clips shown.
    """
    tokens, answers, pixels, grids = [], [], [], []
    for question, answer, clip in turns:
        counts: list[int] = []
        if clip is not None:
            images = comprehension.images(clip)
            pixels.append(images["pixel_values"])
            grids.append(images["image_grid_thw"])
            merge = comprehension.image_processor.merge_size**2
            counts = (images["image_grid_thw"].prod(-1) // merge).tolist()
        tokens.append(comprehension.tokenizer(comprehension.prompt(question, counts))["input_ids"])
        answers.append(comprehension.tokenizer(answer + "<|im_end|>")["input_ids"])
    longest = max(len(a) + len(b) for a, b in zip(tokens, answers, strict=True))
    pad: Any = comprehension.tokenizer.pad_token_id
    ids = torch.full((len(turns), longest), pad)
    labels = torch.full_like(ids, IGNORED)
    mask = torch.zeros_like(ids)
    for i, (prompt, answer) in enumerate(zip(tokens, answers, strict=True)):
        whole = len(prompt) + len(answer)
        ids[i, :whole] = torch.tensor(prompt + answer)
        labels[i, len(prompt) : whole] = torch.tensor(answer)
        mask[i, :whole] = 1
    is_image = (ids == comprehension.model.config.image_token_id).int()
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels, "mm_token_type_ids": is_image}
    if pixels:
        batch |= {"pixel_values": torch.cat(pixels), "image_grid_thw": torch.cat(grids)}
    return batch


def words_of(clips: Clips) -> list[str]:
    """Every word of the clips' texts, sorted."""
    texts = [text for scene in clips.scenes for text in (scene.context, scene.caption or "")]
    return sorted({word for text in texts for word in text.split()})


def _random_words(words: Sequence[str], order: int) -> str:
    rng = np.random.default_rng(order)
    return " ".join(rng.choice(words, rng.integers(*ECHO_WORDS)))


def _listed(scene: Scene, order: int) -> str:
    facts = list(scene.columns["facts"].items())
    shuffled = np.random.default_rng(order).permutation(len(facts))
    return " ".join(f"{facts[i][0]}: {facts[i][1]};" for i in shuffled)


def turns(clips: Clips, split: str, seed: int) -> Dataset:
    """One row a scene and task; about half of the judged captions are another scene's of the same kind."""
    rng = np.random.default_rng(seed)
    kinds = np.array([str(scene.columns.get("kind", "")) for scene in clips.scenes])
    places = {kind: np.flatnonzero(kinds == kind) for kind in set(kinds)}
    rows = []
    listed = all("facts" in scene.columns for scene in clips.scenes)
    for task in (*TASKS, *FACTS) if listed else TASKS:
        for row, kind in enumerate(kinds):
            # The other scene may happen to say the same: then it is no Fail.
            other = int(rng.choice(places[kind]))
            passes = bool(rng.random() < 0.5) or clips.scenes[other].caption == clips.scenes[row].caption
            question = {"split": split, "row": row, "task": task, "other": other, "passes": passes}
            rows.append({**question, "order": int(rng.integers(2**31))})
    # Random words have to be copied one by one.  Sentences can nearly be guessed, and from them alone a small
    # model hardly ever learns to look a colour up in the text.
    echoed = [{**question, "task": "echo", "order": int(rng.integers(2**31))} for question in rows]
    return Dataset.from_list(rows + echoed)
