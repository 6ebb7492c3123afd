"""Clips to learn judging from: a policy's own, true ones and faulty ones, and what each may be turned into.

Shapes: R clips, F frames, H, W pixels.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from rlnsp import world
from rlnsp.atomic import written_whole
from rlnsp.protocols import Policy
from rlnsp.randomness import Randomness
from rlnsp.rollout import sample
from rlnsp.settings import SamplerConfig
from rlnsp.world import language, motion, rendering
from rlnsp.world.events import COLOURS, Event, Split, sample_events

Frames = NDArray[np.uint8]

PART = 400
"""Clips of a file: a stage that is stopped loses no more."""
CHUNK = 32
"""Clips in the making at once."""
PALETTE = np.asarray(list(COLOURS.values()), np.float32)
COLOURED = 12.0
"""Norm of a pixel's colour less its grey below which it is grey."""
BLURRED_SHARE = 0.5
"""Of true clips, so many are softened and waver, as those that come out of an autoencoder."""


def generated_clips(
    policy: Policy, sampler: SamplerConfig, parts: int, seed: int, folder: Path
) -> tuple[list[Event], Frames]:
    """The policy's clips of ``parts * PART`` scenes of the training split, and what the scenes ask for.

    Args:
        policy: the generator whose clips are to be judged.
        sampler: steps and guidance.
        parts: how many; those that lie in ``folder`` are read.
        seed: of scenes and noise of the first part; the next ones have the seeds after it.
        folder: gets a file a part, of clips as they are: a codec would alter what is judged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scenes, clips = [], []
    for number in range(seed, seed + parts):
        path = folder / f"generated-{number}.safetensors"
        asked = world.scenes("train", PART, number)
        if not path.is_file():
            generator = Randomness(seed=number).generator("generate")
            video = sample(policy, asked, sampler, generator, chunk_size=CHUNK)
            with written_whole(path) as aside:
                save_file({"frames": torch.from_numpy(video.frames)}, aside)
        scenes += asked
        clips.append(load_file(path)["frames"].numpy())
    return [language.parse(scene.context) for scene in scenes], np.concatenate(clips)


def true_clips(split: Split, n: int, rng: np.random.Generator) -> tuple[list[Event], Frames]:
    """Events of a split and a clip of each that follows, some of them blurred."""
    events = sample_events(split, n, rng)
    clips = [rendering.render(motion.future(event, rng)) for event in events]
    return events, np.stack([_blurred(c, rng) if rng.random() < BLURRED_SHARE else c for c in clips])


def faulty(clips: Frames, rng: np.random.Generator) -> Frames:
    """Each clip with a fault drawn at random; what it is a clip of then, only a judge can say."""
    faults = [list(FAULTS.values())[i] for i in rng.integers(len(FAULTS), size=len(clips))]
    others = clips[rng.permutation(len(clips))]
    return np.stack([fault(*one, rng) for fault, *one in zip(faults, clips, others, strict=True)])


def recoloured(clip: Frames, colours: Sequence[int]) -> Frames:
    """A clip with the world's colour k in place k drawn in the colour ``colours[k]`` instead.

    A pixel where a colour mixes with grey, as on an edge, keeps the share of each.
    """
    pixels = clip.reshape(-1, 3).astype(np.float32)
    chroma = pixels - pixels.mean(-1, keepdims=True)
    where = np.flatnonzero((chroma * chroma).sum(-1) > COLOURED**2)
    pure = PALETTE - PALETTE.mean(-1, keepdims=True)
    length = np.linalg.norm(pure, axis=-1)
    along = chroma[where] @ (pure / length[:, None]).T
    nearest = along.argmax(-1)
    share = (along.max(-1) / length[nearest]).clip(0, 1)[:, None]
    pixels[where] += share * (PALETTE[list(colours)] - PALETTE)[nearest]
    return pixels.clip(0, 255).round().astype(np.uint8).reshape(clip.shape)


def _blurred(clip: Frames, rng: np.random.Generator) -> Frames:
    soft = clip.astype(np.float32)
    for axis in (1, 2):
        soft = 0.6 * soft + 0.2 * (np.roll(soft, 1, axis) + np.roll(soft, -1, axis))
    return (soft + rng.normal(0, 4, soft.shape)).clip(0, 255).astype(np.uint8)


def _spliced(clip: Frames, other: Frames, rng: np.random.Generator) -> Frames:
    """Another clip from some frame on."""
    cut = int(rng.integers(1, len(clip)))
    return np.concatenate([clip[:cut], other[cut:]])


def _halved(clip: Frames, other: Frames, rng: np.random.Generator) -> Frames:
    """Another clip in one half of the picture."""
    half = clip.shape[2] // 2
    return np.concatenate([clip[:, :, :half], other[:, :, half:]], axis=2)


def _late(clip: Frames, other: Frames, rng: np.random.Generator) -> Frames:
    """It stands still for some frames first."""
    wait = int(rng.integers(2, 6))
    return clip[np.maximum(np.arange(len(clip)) - wait, 0)]


def _faded(clip: Frames, other: Frames, rng: np.random.Generator) -> Frames:
    share = np.linspace(0, 1, len(clip))[:, None, None, None]
    return np.rint((1 - share) * clip[0] + share * clip[-1]).astype(np.uint8)


def _patched(clip: Frames, other: Frames, rng: np.random.Generator) -> Frames:
    """Another clip in a square, for some frames."""
    y, x = rng.integers(0, clip.shape[1] - 16, size=2)
    first = int(rng.integers(0, len(clip) - 1))
    made = clip.copy()
    made[first : first + 3, y : y + 16, x : x + 16] = other[first : first + 3, y : y + 16, x : x + 16]
    return made


FAULTS: dict[str, Callable[[Frames, Frames, np.random.Generator], Frames]] = {
    "static": lambda clip, other, rng: np.repeat(clip[:1], len(clip), 0),
    "reversed": lambda clip, other, rng: clip[::-1],
    "shuffled": lambda clip, other, rng: clip[rng.permutation(len(clip))],
    "noisy": lambda clip, other, rng: (
        (clip + rng.normal(0, rng.uniform(20, 80), clip.shape)).clip(0, 255).astype(np.uint8)
    ),
    "late": _late,
    "faded": _faded,
    "spliced": _spliced,
    "halved": _halved,
    "patched": _patched,
}
