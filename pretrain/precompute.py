"""Shards of what a stage does not train: latents of clips, and what Qwen says at the queries of each text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from pretrain.skipped import Skipped
from pretrain.sources import Precomputed, Videos
from pretrain.tensor_shards import Made, TensorShards
from rlnsp.dataset.video import UnusableVideo, size_of
from rlnsp.distributed import Ranks
from rlnsp.types import Scene

ROWS_A_FILE = 256
"""At the paper's size a file of latents has 460 MB."""


def precomputed(
    videos: Videos,
    folder: Path,
    stage: str,
    skipped: Skipped,
    console: Console,
    ranks: Ranks | None = None,
) -> Precomputed:
    """The same examples as ``videos`` has, of shards in ``folder``, which are made if they are not there.

    Args:
        videos: What to encode, and the model that does.
        folder: Of one split.
        stage: The sub-stage, on which the texts and the queries depend.
        skipped: Gets what cannot be used.
        console: For the progress.
        ranks: The processes that make files, each others.

    Raises:
        ConfigError: shards that were made of other clips or by another model.
        RankEnded: another process has ended.
    """
    ranks = ranks or Ranks()
    model, n = videos.model, len(videos)
    rows = digest_of_rows(videos.scenes)
    size = {
        "num_frames": model.geometry.num_frames,
        "fps": model.geometry.fps,
        "shapes": videos.sizes,
        "notes": "frames, height, width",
    }
    about = {"rows": rows, "vae": digest_of(model.vae.state_dict()), **size}
    latents = TensorShards(folder / "latents", n, about, ROWS_A_FILE, ranks)

    def encoded(row: int) -> Made:
        frames = videos.frames(row)
        return model.encode_frames(frames[None])[0], {"shape": frames.shape[:3]}

    def said(row: int) -> Made:
        return videos.hidden(row, videos.context(row)), {}

    def fill(shards: TensorShards, make: Callable[[int], Made], what: str) -> None:
        for row, note in _fill(shards, make, f"{what} of {folder.name}", console):
            skipped.add(videos.scene(row), UnusableVideo(note["kind"], note["why"]))

    fill(latents, encoded, "latents")
    hidden = None
    if not model.connector.queries.requires_grad:
        about: dict[str, Any] = {
            "rows": rows,
            "text": videos.text,
            "dtype": str(model.compute_dtype),
            "comprehension": digest_of(model.comprehension.state_dict()),
            "queries": digest_of({"queries": model.connector.queries}),
        }
        if videos.context_clips:
            about["context_clips"] = digest_of_contexts(videos.scenes)
            about["clip_frames"] = model.comprehension.limits.clip_frames
            about["clip_max_pixels"] = model.comprehension.limits.clip_max_pixels
        hidden = TensorShards(folder / f"conditions-{stage}", n, about, ROWS_A_FILE, ranks)
        fill(hidden, said, "conditions")
    return Precomputed(videos, latents, hidden)


def digest_of_rows(scenes: Sequence[Scene]) -> str:
    """Of ids, texts and videos by name and size: not of their bytes, which would take as long as decoding."""
    digest = hashlib.sha256()
    for scene in scenes:
        digest.update(repr((scene.id, scene.context, scene.caption, *_named(scene.video))).encode())
    return digest.hexdigest()


def digest_of_contexts(scenes: Sequence[Scene]) -> str:
    """Of the preceding scenes' clips, in the same way."""
    digest = hashlib.sha256()
    for scene in scenes:
        digest.update(repr(_named(scene.context_clip)).encode())
    return digest.hexdigest()


def _named(file: Path | None) -> tuple[str, int]:
    """Name and size."""
    return ("", 0) if file is None else ("/".join(file.parts[-2:]), size_of(file))


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        raw: Any = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(raw.data)
    return digest.hexdigest()


def _fill(
    shards: TensorShards, make: Callable[[int], Made], what: str, console: Console
) -> list[tuple[int, Mapping[str, Any]]]:
    """See ``TensorShards.fill``; of a row whose video is unusable, why."""

    def made(row: int) -> Made:
        try:
            return make(row)
        except UnusableVideo as error:
            return None, {"kind": error.kind, "why": str(error)}

    text = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    disable = not shards.ranks.main
    with Progress(*text, TimeRemainingColumn(), console=console, disable=disable) as progress:
        task = progress.add_task(what, total=shards.num_rows)
        return shards.fill(made, lambda rows: progress.update(task, completed=rows))
