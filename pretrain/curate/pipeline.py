"""From videos to pairs: split, cut, caption, write what came before, check, write again, or drop."""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pretrain.curate.asking import Asker, Dropped
from pretrain.curate.pairs import neighbours, row, written
from pretrain.curate.records import Record, Records, file_name
from pretrain.curate.settings import CurateConfig
from pretrain.curate.splitting import find_scenes
from pretrain.sampling import Part, sample_clip
from rlnsp.chat import sampled
from rlnsp.dataset.video import UnusableVideo
from rlnsp.lane import Lane
from rlnsp.manifest import write_clip
from rlnsp.types import Scene

T = TypeVar("T")


class Pipeline:
    """Videos to records; one that has a record is done.  Of its own event loop."""

    def __init__(
        self, config: CurateConfig, asker: Asker, output: Path, made_by: dict[str, str], records: Records
    ) -> None:
        """Make the folders.

        Args:
            config: What and how.
            asker: Answers.
            output: Gets the clips.
            made_by: Of every pair: the prompts' hash, the models' names.
            records: Gets what became of each video.
        """
        self.config, self.asker, self.output = config, asker, output
        self.made_by, self.records = made_by, records
        self._decoding = Lane("decode", config.workers)
        self._shown = asyncio.Semaphore(config.vlm.concurrency + config.workers)
        """For what is kept of a clip until it has a caption."""
        for folder in (output / "clips", records.folder):
            folder.mkdir(parents=True, exist_ok=True)

    async def run(self, videos: Sequence[Scene], tell: Callable[[Record], None]) -> None:
        """All that are not done yet; ``tell`` is told of each that is.

        Raises:
            ServerFailed: a server does not answer; what is done stays done.
        """
        left = iter(range(len(videos)))

        async def work() -> None:
            for number in left:
                scene = videos[number]
                record = self.records.find(scene.id)
                if record is None:
                    record = await self._video(scene)
                    self.records.put(record)
                tell(record)

        await _together(work() for _ in range(self.config.videos_at_once))

    async def _video(self, video: Scene) -> Record:
        assert video.video is not None
        record, path = Record(id=video.id), video.video
        try:
            parts = await self._decoded(lambda: find_scenes(path, self.config.scenes, self.config.limits))
        except UnusableVideo as error:
            record.drop(video.id, "video", error.kind, f"{path.name} {error}")
            return record
        record.scenes = len(parts)
        given = video.caption if self.config.captions == "given" and len(parts) == 1 else None
        made = await _together(
            self._scene(record, video, number, part, given) for number, part in enumerate(parts)
        )
        scenes = [scene for scene in made if scene is not None]
        asked: list[Coroutine[Any, Any, dict[str, Any] | None]] = []
        if "written" in self.config.pairs:
            asked += [self._written(record, scene) for scene in scenes]
        if "consecutive" in self.config.pairs:
            asked += [self._consecutive(record, before, after) for before, after in neighbours(scenes)]
        record.pairs = [pair for pair in await _together(asked) if pair is not None]
        record.dropped.sort(key=lambda one: one["id"])  # by id, not by who was answered first
        return record

    async def _scene(
        self, record: Record, video: Scene, number: int, part: Part, caption: str | None
    ) -> dict[str, Any] | None:
        """A clip of a scene, with its caption, or None: dropped."""
        assert video.video is not None
        id, path, config = f"{video.id}-{number:03d}", video.video, self.config
        name = f"clips/{file_name(video.id)}-{number:03d}.mp4"

        def cut() -> NDArray[np.uint8]:
            size = config.clips
            clip = sample_clip(path, size.num_frames, size.fps, size.all_shapes, config.limits, part)
            write_clip(self.output / name, clip, size.fps)
            return sampled(clip, size.fps, config.frames)

        async with self._shown:
            try:
                shown = await self._decoded(cut)
            except UnusableVideo as error:
                record.drop(id, "scene", error.kind, str(error))
                return None
            record.clips += 1
            try:
                said = caption or await self.asker.caption(shown)
            except Dropped as error:
                record.drop(id, "caption", error.reason, error.detail)
                return None
        record.captions["given" if caption else "made"] += 1
        return {
            "id": id,
            "number": number,
            "video": name,
            "caption": said,
            "fps": config.clips.fps,
            "split": _split(video, config.heldout),
            "source": video.columns.get("source") or video.id,
            "start": round(part.start, 3),
            "seconds": round(part.end - part.start, 3),
        }

    async def _written(self, record: Record, scene: Mapping[str, Any]) -> dict[str, Any] | None:
        try:
            context, rewrites = await written(self.asker, scene["caption"], self.config.rewrites)
        except Dropped as error:
            pair = {"context": error.context, "caption": scene["caption"]}
            record.drop(f"{scene['id']}-written", "written pair", error.reason, error.detail, **pair)
            return None
        return row(scene, context, pair="written", rewrites=rewrites, made_by=self.made_by)

    async def _consecutive(
        self, record: Record, before: Mapping[str, Any], after: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        try:
            await self.asker.check(before["caption"], after["caption"])
        except Dropped as error:
            pair = {"context": before["caption"], "caption": after["caption"]}
            record.drop(f"{after['id']}-consecutive", "consecutive pair", error.reason, error.detail, **pair)
            return None
        return row(
            after,
            before["caption"],
            pair="consecutive",
            context_clip=before["video"],
            made_by=self.made_by,
        )

    async def _decoded(self, call: Callable[[], T]) -> T:
        async with self._decoding.place:
            return await self._decoding.run(call, in_thread=True)


async def _together(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Their results in order.  If one raises, the others are cancelled, and that is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as error:
        raise error.exceptions[0] from error
    return [task.result() for task in tasks]


def _split(video: Scene, heldout: float) -> str:
    """By a hash, so that more videos change no other's split; what its data set holds out stays held out."""
    share = int.from_bytes(hashlib.sha256(video.id.encode()).digest()[:8], "big") / 2**64
    return "heldout" if video.split == "heldout" or share < heldout else "train"
