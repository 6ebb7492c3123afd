"""The output folder of a command: its data, the stages done and their settings, the policy so far."""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from policies.latents import Geometry
from policies.unified.model import UnifiedModel
from pretrain.clips import Clips, read_clips
from pretrain.diffusion import encode_clips
from pretrain.marks import check_same, read_json, write_json
from pretrain.world_data import write_world
from rlnsp.settings import ConfigError

CONSOLE = Console()
RESERVED = ("data", "latents", "policy")
"""Folders of the output that are no stage's."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The clips that the stages train on."""

    manifest: str = "world"
    """JSON lines with the splits train and heldout; 'world' writes the embedded world to OUTPUT/data."""
    num_train: int = 9800
    """Clips of the world to write; and so below."""
    num_heldout: int = 700
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_train", "num_heldout"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name} must be at least 1; got {getattr(self, name)}")


class Work:
    """What a command has done so far; nothing is written before the first stage begins."""

    def __init__(self, output: Path, data: DataConfig, geometry: Geometry) -> None:
        self.output, self.policy = output, output / "policy"
        self._data, self._geometry = data, geometry
        self._clips: dict[str, Clips] = {}

    @property
    def rest(self) -> Path | None:
        """The policy so far, if there is any."""
        return self.policy if self.policy.is_dir() else None

    @property
    def train(self) -> Clips:
        """The clips to train on."""
        return self._read("train")

    @property
    def heldout(self) -> Clips:
        """The clips that no stage trains on."""
        return self._read("heldout")

    def done(self, stage: str, settings: Mapping[str, Any]) -> bool:
        """True if the stage's mark is there.

        A mark without settings was put there by hand, beside a part that was made elsewhere: it is believed.

        Raises:
            ConfigError: the stage was done with other settings.
        """
        mark = self.output / stage / "done.json"
        if not mark.is_file():
            return False
        content = read_json(mark)
        if "settings" in content:
            check_same(mark.parent, content["settings"], settings)
        return True

    def check_order(self, stages: Sequence[str], independent: int = 1) -> None:
        """No stage is done while one that it builds on is not.

        Args:
            stages: In order.
            independent: So many at the beginning do not build on each other.

        Raises:
            ConfigError: one is.
        """
        todo = [stage for stage in stages if not (self.output / stage / "done.json").is_file()]
        for place, stage in enumerate(stages[independent:], start=independent):
            before = [earlier for earlier in stages[:place] if earlier in todo]
            if before and stage not in todo:
                raise ConfigError(
                    f"{self.output / stage}: done, but {before[0]}, which it builds on, is not; "
                    f"remove {self.output / stage} too, to make both anew"
                )

    @contextmanager
    def stage(self, name: str, settings: Mapping[str, Any]) -> Iterator[Path]:
        """The stage's folder; leaves the mark if nothing goes wrong inside.

        Raises:
            ConfigError: a checkpoint is there from a run with other settings; or the clips cannot be used.
        """
        folder, began = self.output / name, time.monotonic()
        begun = folder / "settings.json"
        if begun.is_file() and any(folder.glob("checkpoint*")):
            check_same(folder, read_json(begun), settings)
        for split in ("train", "heldout"):
            self._read(split)
        write_json(begun, settings)
        CONSOLE.print(f"{name} -> {folder}", highlight=False, markup=False, soft_wrap=True)
        yield folder
        seconds = round(time.monotonic() - began, 1)
        write_json(folder / "done.json", {"seconds": seconds, "settings": settings})
        for path in (begun, *folder.glob("checkpoint*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def latents(self, model: UnifiedModel) -> dict[str, tuple[Clips, Tensor]]:
        """Clips and their latents (R, N, C), by split."""
        place = self.output / "latents"
        clips = {split: self._read(split) for split in ("train", "heldout")}
        return {s: (c, encode_clips(model, c, place / f"{s}.safetensors")) for s, c in clips.items()}

    def _read(self, split: str) -> Clips:
        if split not in self._clips:
            manifest = self._world() if self._data.manifest == "world" else Path(self._data.manifest)
            g = self._geometry
            self._clips[split] = read_clips(manifest, split, (g.num_frames, g.height, g.width), g.fps)
        return self._clips[split]

    def _world(self) -> Path:
        data, folder = self._data, self.output / "data"
        settings = asdict(data)
        done = self.done("data", settings)
        manifest = write_world(folder, data.num_train, data.num_heldout, data.seed)
        if not done:
            write_json(folder / "done.json", {"settings": settings})
        return manifest
