"""What a judge in training answers by itself, so that it learns how far its own captions can be trusted."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from policies.unified.comprehension import Comprehension
from pretrain.judge_clips import Frames
from pretrain.judge_turns import THOUGHT, Shown, Turn, form
from pretrain.recognition import follows
from pretrain.turns import DESCRIBE, JUDGE
from rlnsp.world import language

CAPTION_TOKENS, VERDICT_TOKENS = 96, 96
BATCH = 32


def own_verdicts(
    comprehension: Comprehension, shown: Sequence[Shown], clips: Frames, n: int, seed: int
) -> list[Turn]:
    """Verdicts as the judge comes to them: its own caption and thought, but at last what the tracker says.

    What its captions get wrong is thus weighed as often as it happens; what it answers in another form than
    it learned is left out.

    Args:
        comprehension: the judge so far.
        shown: clips that it has not seen, with the scenes that they were to follow.
        clips: (R, F, H, W, 3), as those shown number them.
        n: how many forms of them it is asked about.
        seed: of forms and phrasings.
    """
    rng = np.random.default_rng(seed)
    forms = [form(shown[row % len(shown)], rng) for row in range(n)]
    captions = answered(comprehension, [(DESCRIBE, one.of(clips)) for one in forms], CAPTION_TOKENS)
    questions = [
        JUDGE.format(context=language.describe(one.asked, rng), caption=said)
        for one, said in zip(forms, captions, strict=True)
    ]
    made = answered(comprehension, [(question, None) for question in questions], VERDICT_TOKENS)
    turns = []
    for one, question, said in zip(forms, questions, made, strict=True):
        if found := THOUGHT.fullmatch(said):
            turns.append(Turn(question, found[1] + ("Pass" if follows(one.asked, one.seen) else "Fail")))
    return turns


@torch.no_grad()
def answered(
    comprehension: Comprehension, questions: Sequence[tuple[str, Frames | None]], max_tokens: int
) -> list[str]:
    """The likeliest answer to each question, about a clip (F, H, W, 3) or none."""
    model: Any = comprehension.model
    tokenizer = comprehension.tokenizer
    merge = comprehension.image_processor.merge_size**2
    texts = []
    for begin in range(0, len(questions), BATCH):
        rows, images = [], []
        for question, clip in questions[begin : begin + BATCH]:
            counts: list[int] = []
            if clip is not None:
                images.append(comprehension.images(clip))
                counts = (images[-1]["image_grid_thw"].prod(-1) // merge).tolist()
            rows.append(comprehension.prompt(question, counts))
        inputs: Any = tokenizer(rows, padding=True, padding_side="left", return_tensors="pt")
        ids = inputs["input_ids"]
        shown = {name: torch.cat([one[name] for one in images]) for name in images[0]} if images else {}
        made = model.generate(
            input_ids=ids,
            attention_mask=inputs["attention_mask"],
            mm_token_type_ids=(ids == model.config.image_token_id).int(),
            **shown,
            max_new_tokens=max_tokens,
            do_sample=False,
        )
        texts += tokenizer.batch_decode(made[:, ids.shape[1] :], skip_special_tokens=True)
    return texts
