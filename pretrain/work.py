"""The output folder of a command: its data, the stages done and their settings, the policy so far."""

import hashlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from torch import Tensor

from policies.latents import Geometry
from policies.unified.model import UnifiedModel
from pretrain.clips import Clips, read_clips
from pretrain.diffusion import DiffusionConfig, encode_clips
from pretrain.examples import Source
from pretrain.marks import check_same, read_json, write_json
from pretrain.precompute import precomputed
from pretrain.skipped import Skipped
from pretrain.sources import InMemory, Videos, context_frames, usable_clips
from pretrain.world_data import MANIFEST, write_world
from rlnsp.dataset.hub import place_of
from rlnsp.dataset.safety import Limits
from rlnsp.distributed import Ranks
from rlnsp.manifest import Scenes, open_manifest
from rlnsp.settings import ConfigError

CONSOLE = Console()
WORLD = "world"
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
    """Threads that load ahead: they decode streamed clips, and of what was precomputed the context clips."""
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
    """What a command has done so far; nothing is written before the first stage begins.

    Of several processes, which all see the output, the first writes.
    """

    def __init__(
        self,
        output: Path,
        data: DataConfig,
        geometry: Geometry,
        *,
        need_context: bool = True,
        manifests: Sequence[str] = (),
        ranks: Ranks | None = None,
    ) -> None:
        """Look at nothing yet.

        Args:
            output: the folder.
            data: the command's.
            geometry: of the policy's clips.
            need_context: some stage reads the preceding scenes.
            manifests: every data set that some stage reads; none: that of ``data``.
            ranks: the processes that do the work.
        """
        self.output, self.policy, self._need_context = output, output / "policy", need_context
        self._data, self._geometry, self.ranks = data, geometry, ranks or Ranks()
        self._manifests = list(dict.fromkeys(manifests)) or [data.manifest]
        self._clips: dict[tuple[str, str], Clips] = {}
        self._opened: dict[tuple[str, str], Scenes] = {}

    @property
    def rest(self) -> Path | None:
        """The policy so far, if there is any."""
        return self.policy if self.policy.is_dir() else None

    @property
    def train(self) -> Clips:
        """The clips to train on."""
        return self._read(self._data.manifest, "train")

    @property
    def heldout(self) -> Clips:
        """The clips that no stage trains on."""
        return self._read(self._data.manifest, "heldout")

    def done(self, stage: str, settings: Mapping[str, Any]) -> bool:
        """True if the stage's mark is there.

        A mark without settings was put there by hand, beside a part that was made elsewhere: it is believed.

        Raises:
            ConfigError: the stage was done with other settings.
        """
        # What the first process sees holds: a network's disk may show it to the others later.
        return self.ranks.of_main(self.ranks.main and self._marked(stage, settings))

    def _marked(self, stage: str, settings: Mapping[str, Any]) -> bool:
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
            RankEnded: another process has ended.
        """
        folder, began = self.output / name, time.monotonic()
        begun = folder / "settings.json"
        if begun.is_file() and any(folder.glob("checkpoint*")):
            check_same(folder, read_json(begun), settings)
        self._check()
        if self.ranks.main:
            write_json(begun, settings)
            CONSOLE.print(f"{name} -> {folder}", highlight=False, markup=False, soft_wrap=True)
        yield folder
        self.ranks.exchange(None)  # none reads what goes now
        if self.ranks.main:
            seconds = round(time.monotonic() - began, 1)
            write_json(folder / "done.json", {"seconds": seconds, "settings": settings})
            for path in (begun, *folder.glob("checkpoint*")):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.ranks.exchange(None)

    @property
    def workers(self) -> int:
        """Threads that load clips ahead."""
        return self._data.workers if self._data.clips != "memory" else 0

    def sources(
        self, model: UnifiedModel, stage: str, config: DiffusionConfig, folder: Path
    ) -> dict[str, Source]:
        """What a diffusion stage trains on, by split; what cannot be used is listed in ``folder``.

        Raises:
            ConfigError: shapes that the model cannot take, or shards of other clips.
        """
        manifest = config.manifest or self._data.manifest
        place = self.output / "latents" / (_folder_of(config.manifest) if config.manifest else "")
        found = dict[str, Source]()
        for split in SPLITS:
            if self._data.clips == "memory":
                encoded = self._encoded(model, manifest, split, place / f"{split}.safetensors")
                read = partial(context_frames, model=model, limits=self._data.limits)
                found[split] = InMemory(*encoded, read if config.context_clips else None)
                continue
            scenes = self._scenes(manifest, split)
            skipped = Skipped(folder / "skipped.jsonl", writes=self.ranks.main)
            skipped.add_files(scenes.rows.broken)
            videos = Videos(
                scenes,
                model,
                self._sizes,
                self._data.limits,
                config.text,
                context_clips=config.context_clips,
            )
            found[split] = videos
            if self._data.clips == "precomputed":
                found[split] = precomputed(videos, place / split, stage, skipped, CONSOLE, self.ranks)
        return found

    def idle_parts(self, config: DiffusionConfig) -> set[str]:
        """Those of a model that a stage calls no more, once it has its ``sources``."""
        return idle_parts(self._data, config)

    def tell_skipped(self, folder: Path) -> None:
        """Say how many clips a stage passed over."""
        path = folder / "skipped.jsonl"
        if self.ranks.main and path.is_file():
            count = len(Skipped(path).ids)
            CONSOLE.print(f"{count} clips cannot be used: {path}", highlight=False, soft_wrap=True)

    def _encoded(self, model: UnifiedModel, manifest: str, split: str, path: Path) -> tuple[Clips, Tensor]:
        clips = self._read(manifest, split)
        latents = encode_clips(model, clips, path) if self.ranks.main else None
        self.ranks.exchange(None)  # the others read what it wrote
        return clips, encode_clips(model, clips, path) if latents is None else latents

    @property
    def _sizes(self) -> list[tuple[int, int]]:
        own = self._geometry.height, self._geometry.width
        return [(shape[0], shape[1]) for shape in self._data.shapes] or [own]

    def _place(self, manifest: str) -> Path | str:
        return self._world() if manifest == WORLD else place_of(manifest)

    def _scenes(self, manifest: str, split: str, *, pictures: bool = True) -> Scenes:
        key = f"{manifest} {pictures}", split
        if key not in self._opened:
            self._opened[key] = open_manifest(
                self._place(manifest), split, need_context=self._need_context, pictures=pictures
            )
        return self._opened[key]

    def _check(self) -> None:
        """Fail before a stage begins, not in it."""
        for manifest in self._manifests:
            for split in SPLITS:
                if self._data.clips == "memory":
                    self._read(manifest, split)
                else:
                    self._scenes(manifest, split)

    def _read(self, manifest: str, split: str) -> Clips:
        if (manifest, split) not in self._clips:
            g = self._geometry
            if self._data.clips == "memory":
                place = self._place(manifest)
                read = read_clips(place, split, (g.num_frames, g.height, g.width), g.fps)
            else:
                scenes = self._scenes(manifest, split, pictures=False)
                read = usable_clips(scenes, g, self._data.limits, self.output / "skipped.jsonl")
            self._clips[manifest, split] = read
        return self._clips[manifest, split]

    def _world(self) -> Path:
        data, folder = self._data, self.output / "data"
        settings = {name: getattr(data, name) for name in ("manifest", "num_train", "num_heldout", "seed")}
        settings["manifest"] = WORLD
        done = self.done("data", settings)
        if self.ranks.main:
            write_world(folder, data.num_train, data.num_heldout, data.seed)
            if not done:
                write_json(folder / "done.json", {"settings": settings})
        self.ranks.exchange(None)
        return folder / MANIFEST


def idle_parts(data: DataConfig, config: DiffusionConfig) -> set[str]:
    """Parts of a model that a stage calls no more, or once, when what they say is at hand."""
    idle = set() if data.clips == "stream" else {"vae"}
    if data.clips == "precomputed" and "queries" not in config.train:
        idle.add("comprehension")
    return idle


def _folder_of(manifest: str) -> str:
    """For the latents of a data set: sub-stages of the same one share them."""
    return f"{Path(manifest).stem}-{hashlib.sha256(manifest.encode()).hexdigest()[:8]}"
