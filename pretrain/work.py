"""The output folder of a command: its data, the stages done and their settings, the policy so far."""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from policies.latents import Geometry
from policies.unified.model import UnifiedModel
from pretrain.batches import Skipped, Source
from pretrain.clips import Clips, read_clips
from pretrain.diffusion import DiffusionConfig, encode_clips
from pretrain.marks import check_same, read_json, write_json
from pretrain.precompute import precomputed
from pretrain.sources import InMemory, Videos, usable_clips
from pretrain.world_data import write_world
from rlnsp.dataset.safety import Limits
from rlnsp.manifest import Scenes, open_manifest
from rlnsp.settings import ConfigError

CONSOLE = Console()
SPLITS = ("train", "heldout")
RESERVED = ("data", "latents", "policy")
"""Folders of the output that are no stage's."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The clips that the stages train on."""

    manifest: str = "world"
    """A data set with the splits train and heldout, in any form that ``rlnsp.dataset.rows`` reads; 'world'
    writes the embedded world to OUTPUT/data."""
    clips: Literal["memory", "stream", "precomputed"] = "memory"
    """``memory``: all are, and each has to be of the policy's very size.  ``stream``: each is decoded, cut to
    size and encoded when it is its turn; what cannot be used is passed over and listed.  ``precomputed``: the
    same from shards of latents, which are made first."""
    shapes: list[list[int]] = field(default_factory=list)
    """[height, width] each, of streamed clips: the one nearest to a video's is taken.  None: the policy's."""
    workers: int = 2
    """Threads that decode streamed clips ahead."""
    limits: Limits = field(default_factory=Limits)
    """On streamed videos."""
    num_train: int = 9800
    """Clips of the world to write; and so below."""
    num_heldout: int = 700
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_train", "num_heldout"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name} must be at least 1; got {getattr(self, name)}")
        if self.workers < 0:
            raise ConfigError(f"data.workers must be 0 or more; got {self.workers}")
        for shape in self.shapes:
            if len(shape) != 2 or min(shape) < 1:
                raise ConfigError(f"data.shapes must have [height, width] each; got {shape}")

    def identity(self) -> dict[str, Any]:
        """What a stage depends on: clips that are streamed and those that were precomputed are the same."""
        settings = asdict(self)
        del settings["workers"]
        if self.clips == "memory":
            # These say nothing of clips in memory.
            for name in ("clips", "shapes", "limits"):
                del settings[name]
        else:
            settings["clips"] = "stream"
        return settings


class Work:
    """What a command has done so far; nothing is written before the first stage begins."""

    def __init__(
        self, output: Path, data: DataConfig, geometry: Geometry, *, need_context: bool = True
    ) -> None:
        """Look at nothing yet; ``need_context``: some stage reads the preceding scenes."""
        self.output, self.policy, self._need_context = output, output / "policy", need_context
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
        self._check()
        write_json(begun, settings)
        CONSOLE.print(f"{name} -> {folder}", highlight=False, markup=False, soft_wrap=True)
        yield folder
        seconds = round(time.monotonic() - began, 1)
        write_json(folder / "done.json", {"seconds": seconds, "settings": settings})
        for path in (begun, *folder.glob("checkpoint*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    @property
    def workers(self) -> int:
        """Threads that load clips ahead."""
        return self._data.workers if self._data.clips == "stream" else 0

    def sources(
        self, model: UnifiedModel, stage: str, config: DiffusionConfig, folder: Path
    ) -> dict[str, Source]:
        """What a diffusion stage trains on, by split; what cannot be used is listed in ``folder``.

        Raises:
            ConfigError: shapes that the model cannot take, or shards of other clips.
        """
        place, found = self.output / "latents", dict[str, Source]()
        for split in SPLITS:
            if self._data.clips == "memory":
                clips = self._read(split)
                found[split] = InMemory(clips, encode_clips(model, clips, place / f"{split}.safetensors"))
                continue
            scenes = self._scenes(split)
            skipped = Skipped(folder / "skipped.jsonl")
            skipped.add_files(scenes.rows.broken)
            videos = Videos(scenes, model, self._shapes, self._data.limits, config.text)
            found[split] = videos
            if self._data.clips == "precomputed":
                found[split] = precomputed(videos, place / split, stage, skipped, CONSOLE)
        return found

    def tell_skipped(self, folder: Path) -> None:
        """Say how many clips a stage passed over."""
        path = folder / "skipped.jsonl"
        if path.is_file():
            count = len(Skipped(path).ids)
            CONSOLE.print(f"{count} clips cannot be used: {path}", highlight=False, soft_wrap=True)

    @property
    def _shapes(self) -> list[tuple[int, int]]:
        own = self._geometry.height, self._geometry.width
        return [(shape[0], shape[1]) for shape in self._data.shapes] or [own]

    @property
    def _manifest(self) -> Path:
        return self._world() if self._data.manifest == "world" else Path(self._data.manifest)

    def _scenes(self, split: str) -> Scenes:
        return open_manifest(self._manifest, split, need_context=self._need_context)

    def _check(self) -> None:
        """Fail before a stage begins, not in it."""
        for split in SPLITS:
            if self._data.clips == "memory":
                self._read(split)
            else:
                self._scenes(split)

    def _read(self, split: str) -> Clips:
        if split not in self._clips:
            g = self._geometry
            if self._data.clips == "memory":
                read = read_clips(self._manifest, split, (g.num_frames, g.height, g.width), g.fps)
            else:
                scenes = self._scenes(split)
                read = usable_clips(scenes, g, self._data.limits, self.output / "skipped.jsonl")
            self._clips[split] = read
        return self._clips[split]

    def _world(self) -> Path:
        data, folder = self._data, self.output / "data"
        settings = {name: getattr(data, name) for name in ("manifest", "num_train", "num_heldout", "seed")}
        done = self.done("data", settings)
        manifest = write_world(folder, data.num_train, data.num_heldout, data.seed)
        if not done:
            write_json(folder / "done.json", {"settings": settings})
        return manifest
