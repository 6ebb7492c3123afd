"""How far the plan of a stage is from what is measured; part of ``python -m benchmarks.plan_error``.

Two steps of stage 2 on the embedded world's model and its held-out loss: the peak of torch's tensors, those
from before left out, against the plan's hungriest phase without weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.compared import CONVOLUTION, Compared
from benchmarks.memory import peak_bytes
from benchmarks.two_processes import FSDP2, launch
from policies.unified import Unified
from policies.unified.files import policy_folder
from policies.unified.model import UnifiedModel
from policies.unified.weights import load_model
from pretrain.checkpoint import Checkpoint
from pretrain.clips import Clips
from pretrain.diffusion import DiffusionConfig, prepare, train_diffusion
from pretrain.loop import LoopConfig
from pretrain.plan import outline
from pretrain.plan.counting import Counts
from pretrain.plan.estimate import StageRun, estimate
from pretrain.sources import InMemory
from pretrain.work import DataConfig
from rlnsp.distributed import Ranks, together
from rlnsp.plan.estimate import GIB, Rates
from rlnsp.plan.spread import Spread
from rlnsp.plan.stages import Devices
from rlnsp.world import scenes

CASES: dict[str, dict[str, Any]] = {
    "adamw": {},
    "adamw, checkpointing": {"gradient_checkpointing": True},
    "prodigy": {"optimizer": "prodigy"},
    "prodigy, checkpointing": {"optimizer": "prodigy", "gradient_checkpointing": True},
    "prodigy, bf16, checkpointing, in four parts": {
        "optimizer": "prodigy",
        "precision": "bf16",
        "gradient_checkpointing": True,
        "micro_batch_size": 2,
    },
}
SPREAD: dict[Spread, dict[str, str]] = {
    "gradients": FSDP2 | {"FSDP_RESHARD_AFTER_FORWARD": "false"},
    "weights": FSDP2,
}
"""What a launcher says of each way."""
ALONE = Devices(count=1, memory=80.0 * GIB, rates=Rates(), spread="none")
WEIGHTS = ("Qwen", "VAE", "connector", "connector, frozen", "DiT", "latents of all clips")
"""Parts of a plan that are there before a stage trains."""


def config_of(
    batch: int, *, optimizer: str = "adamw", ema_decay: float = 0.99, **own: Any
) -> DiffusionConfig:
    """Two steps of stage 2."""
    loop: dict[str, Any] = {"optimizer": optimizer, "ema_decay": ema_decay}
    loop |= {"steps": 2, "batch_size": batch, "warmup": 0, "evaluate_every": 2, "save_every": 2}
    return DiffusionConfig(text="context", loop=LoopConfig(**loop), **own)


def planned(config: DiffusionConfig, counts: Counts, devices: Devices = ALONE) -> float:
    """Bytes beside the weights."""
    run = StageRun(
        name="sft", config=config, data=DataConfig(), optimizer=config.loop.optimizer, devices=devices
    )
    phases = estimate(run, counts).phases
    return max(
        sum(size for part, size in phases[name].items() if part not in WEIGHTS)
        for name in ("training", "stepping", "evaluating")
    )


def measured(config: DiffusionConfig, model: UnifiedModel, folder: Path, ranks: Ranks | None = None) -> int:
    """Bytes, while it trains."""
    prepare(model, config)  # as a stage does before: Qwen's weights are in bf16 by now
    data = clips_of(model, config.loop.batch_size)
    work = partial(train_diffusion, "sft", config, model, data, folder, ranks=ranks)
    # What is saved is copied to the CPU, which on a GPU is elsewhere.
    with patch.object(Checkpoint, "save"):
        return peak_bytes(work)


def of_one(folder: Path, batch: int, case: str) -> int:
    """In one of several processes: what the last of them has, its rows included, in a file."""

    def work(ranks: Ranks) -> int:
        config = config_of(batch, **CASES[case])
        found = measured(config, load_model(Unified.Config(folder="world")), folder, ranks)
        if not ranks.main:  # which in the end has all of the DiT
            (folder / "found.json").write_text(json.dumps(found))
        return 0

    return together(work, timeout_s=600)


def of_spreading(spread: Spread, batch: int, case: str, counts: Counts) -> Compared:
    """By two processes on the CPU."""
    devices = Devices(count=2, memory=ALONE.memory, rates=Rates(), spread=spread)
    config = config_of(batch, **CASES[case])
    own = counts.numbers(config).dit.own(spread, 2)
    with TemporaryDirectory() as there:
        log = Path(there) / "log"
        processes = launch(of_one, (Path(there), batch, case), log, 2, SPREAD[spread])
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise RuntimeError(log.with_suffix(".1").read_text())
        found = json.loads((Path(there) / "found.json").read_text())
    return Compared(
        what=f"stage 2, batch of {batch}, {case}, {spread} spread over two",
        planned=own + planned(config, counts, devices),
        measured=found,
    )


def clips_of(model: UnifiedModel, count: int) -> dict[str, InMemory]:
    """Scenes of the world with clips of noise."""
    g = model.geometry
    frames = np.random.default_rng(0).integers(
        0, 256, (count, g.num_frames, g.height, g.width, 3), dtype=np.uint8
    )
    clips = Clips(scenes=list(scenes("train", count, 0)), frames=frames, fps=g.fps)
    source = InMemory(clips, model.encode_frames(frames))
    return {"train": source, "heldout": source}


def compared(batch: int = 8) -> Iterator[Compared]:
    """Each case, then the encoding of a clip."""
    folder = policy_folder("world")
    counts = Counts(outline.of_folder(folder))
    for name, own in CASES.items():
        config, model = config_of(batch, **own), load_model(Unified.Config(folder="world"))
        with TemporaryDirectory() as there:
            found = measured(config, model, Path(there))
        yield Compared(
            what=f"stage 2, batch of {batch}, {name}", planned=planned(config, counts), measured=found
        )
    for case in ("adamw", "adamw, checkpointing"):
        for spread in SPREAD:
            yield of_spreading(spread, batch, case, counts)
    model = load_model(Unified.Config(folder="world"))
    g = model.geometry
    frames = np.zeros((batch, g.num_frames, g.height, g.width, 3), np.uint8)
    cost = counts.of_encoding((g.num_frames, g.height, g.width), batch)
    work = partial(model.encode_frames, frames)
    what = f"encoding of {batch}"
    yield Compared(what=what, planned=cost.bytes, measured=peak_bytes(work))
    left_out = peak_bytes(work, closed=CONVOLUTION)
    yield Compared(what=f"{what}, convolutions' own left out", planned=cost.bytes, measured=left_out)
