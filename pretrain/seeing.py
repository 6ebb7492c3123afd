"""A vision tower learns to name what is where: each image token becomes like the words for what it shows.

A small model that is only taught captions takes very long to find in its image tokens what it has to say, and
until then guesses.  Here every token has a target of its own, in the language that the model reads already.

Shapes: F frames of a clip, P image tokens of a frame, K colours of the world, V words of the vocabulary.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policies.unified.comprehension import Comprehension
from pretrain.judge_clips import Frames
from pretrain.judge_turns import Shown, form
from rlnsp.pretrained import evenly
from rlnsp.settings import ConfigError
from rlnsp.world.tracking import NAMES, track

NOTHING = "room"
"""What a token says that shows no coloured thing."""
FULL = 96
"""Coloured pixels, a ball's, beside which a token tells of nothing else.  Fewer are told of by their number,
since it says how far into the token a thing reaches."""
CLIPS = 12
"""Of a step."""
PEAK = 2e-3
"""Learning rate, after a warm-up of ``WARMUP`` steps."""
WARMUP = 20
SMALL = 0.01
"""The tower's tokens are two hundred times as long as words: what layers add to them would go unnoticed."""
LENGTH = 2.5
"""Of an image token in the end; a word has 1."""
NAMED = re.compile(rf"({'|'.join(NAMES)}) (\w+)")


def learn_to_see(
    comprehension: Comprehension, clips: Frames, shown: Sequence[Shown], *, steps: int, seed: int
) -> list[float]:
    """Train the vision tower, in place, on true clips, whose caption names all that is coloured.

    A token's target is half the colours of its pixels and half their nouns, each by its share, and the more
    of nothing, the fewer are coloured.  Words stay what they are.

    Args:
        comprehension: a Qwen2.5-VL whose tokenizer knows each of these words.
        clips: (R, F, H, W, 3), as those shown number them.
        shown: what each shows, in any form; those in which something fails are left out.
        steps: of ``CLIPS`` clips each.
        seed: of their order and forms.

    Returns:
        The loss of each step, in nats a token.

    Raises:
        ConfigError: no clip is left.
    """
    true = [one for one in shown if one.seen.holds]
    if not true:
        raise ConfigError("none of the clips to learn seeing from is a true one; make more of them")
    model: Any = comprehension.model
    words = model.get_input_embeddings().weight.detach()
    last = model.model.visual.merger.mlp[-1]
    _scale(last, SMALL)
    tower = list(model.model.visual.requires_grad_(True).parameters())
    optimiser = torch.optim.AdamW(tower, lr=PEAK)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / steps)) / 2
    )
    rng = np.random.default_rng(seed)
    losses = []
    for _ in range(steps):
        parts = [form(true[row], rng) for row in rng.integers(len(true), size=CLIPS)]
        frames = [evenly(one.of(clips), comprehension.limits.clip_frames) for one in parts]
        said = torch.cat([tokens_of(comprehension, some) for some in frames])
        nouns = [dict(NAMED.findall(one.seen.caption)) for one in parts]
        target = torch.cat(
            [words_shown(comprehension, some, names) for some, names in zip(frames, nouns, strict=True)]
        )
        loss = torch.nn.functional.cross_entropy(said @ words.T, target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        losses.append(loss.item())
    with torch.no_grad():
        length = float(tokens_of(comprehension, evenly(true[0].of(clips), 1)).norm(dim=-1).mean())
    _scale(last, LENGTH / length)
    return losses


def tokens_of(comprehension: Comprehension, frames: Frames) -> Tensor:
    """(F * P, W)."""
    images = comprehension.images(frames)
    qwen: Any = comprehension.model.model
    return torch.cat(qwen.get_image_features(images["pixel_values"], images["image_grid_thw"]).pooler_output)


def words_shown(comprehension: Comprehension, frames: Frames, nouns: dict[str, str]) -> Tensor:
    """(F * P, V), of frames (F, H, W, 3): what each token is to say, as a distribution."""
    side = comprehension.image_processor.patch_size * comprehension.image_processor.merge_size
    count, height, width, _ = frames.shape
    cells = frames.reshape(count, height // side, side, width // side, side, 3).swapaxes(2, 3)
    area = track(cells.reshape(-1, 1, side, side, 3)).area[:, 0]  # (F * P, K)
    coloured = area / np.maximum(area.sum(-1, keepdims=True), FULL)
    text: Any = comprehension.model.config.text_config
    target = torch.zeros(len(area), text.vocab_size)
    for colour, share in zip(NAMES, torch.from_numpy(coloured).float().T, strict=True):
        target[:, _word(comprehension, colour)] += share / 2
        target[:, _word(comprehension, nouns.get(colour, colour))] += share / 2
    target[:, _word(comprehension, NOTHING)] += 1 - target.sum(-1)
    return target


def _word(comprehension: Comprehension, word: str) -> int:
    """The token of a word within a sentence; of one in several, the last."""
    ids: Any = comprehension.tokenizer(f" {word}")["input_ids"]
    return ids[-1]


def _scale(layer: torch.nn.Linear, by: float) -> None:
    with torch.no_grad():
        layer.weight.mul_(by)
        layer.bias.mul_(by)
