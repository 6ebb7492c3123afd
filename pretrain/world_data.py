"""Writes the embedded world as a data set: mp4 files and a manifest, read back as real data is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rlnsp.manifest import write_clip, write_manifest
from rlnsp.world import FPS, language, motion, rendering
from rlnsp.world.events import Split, sample_events

MANIFEST = "manifest.jsonl"


def write_world(folder: Path, num_train: int, num_heldout: int, seed: int) -> Path:
    """Write clips with their scenes and captions; the manifest comes last, when all clips are there.

    Returns:
        the manifest's path.  One that is there already is left as it is.
    """
    manifest = folder / MANIFEST
    if manifest.is_file():
        return manifest
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    rows = [*_rows(folder, "train", num_train, seed), *_rows(folder, "heldout", num_heldout, seed)]
    write_manifest(manifest, rows)
    return manifest


def _rows(folder: Path, split: Split, n: int, seed: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng([seed, split == "heldout", 1])
    for number, event in enumerate(sample_events(split, n, rng)):
        future = motion.future(event, rng)
        name = f"clips/{split}-{number:05d}.mp4"
        write_clip(folder / name, rendering.render(future), FPS)
        yield {
            "id": f"{split}-{number:05d}",
            "context": language.describe(event, rng),
            "caption": language.caption(event, future.direction, future.bounces, rng),
            "video": name,
            "fps": FPS,
            "split": split,
            "source": "rlnsp.world",
            "kind": event.kind,
            "facts": language.facts(event, future.direction),
        }
