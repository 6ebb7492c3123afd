"""Where latents come from: clips in memory, videos as they are needed, or shards that were made before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.latents import Geometry
from policies.unified.comprehension import CAPTION, NEXT_SCENE
from policies.unified.model import UnifiedModel
from pretrain.clips import Clips
from pretrain.examples import Example, Shape
from pretrain.pictures import is_picture, sample_picture
from pretrain.sampling import sample_clip
from pretrain.skipped import Skipped
from pretrain.tensor_shards import TensorShards
from rlnsp.dataset.frames import whole_clip
from rlnsp.dataset.safety import Limits
from rlnsp.dataset.video import UnusableVideo
from rlnsp.pretrained import evenly
from rlnsp.settings import ConfigError
from rlnsp.types import Scene

Size = tuple[int, int]
"""(H, W) pixels."""
Text = Literal["caption", "context"]
"""What the model reads: the clip's own caption, or the scene before it."""
TEMPLATES = {"caption": CAPTION, "context": NEXT_SCENE}


def text_of(scene: Scene, text: Text) -> str:
    """What the model reads of a scene."""
    return (scene.caption or "") if text == "caption" else scene.context


def context_frames(scene: Scene, model: UnifiedModel, limits: Limits) -> NDArray[np.uint8] | None:
    """Of a scene's ``context_clip`` the frames (f, h, w, 3) that the model reads; None where it has none.

    Raises:
        UnusableVideo: it cannot be used.
    """
    if scene.context_clip is None:
        return None
    try:
        clip, _ = whole_clip(scene.context_clip, limits)
    except UnusableVideo as error:
        raise UnusableVideo(error.kind, f"has a context_clip, {scene.context_clip}, that {error}") from error
    return evenly(clip, model.comprehension.limits.clip_frames)


class InMemory:
    """Clips, all of one shape, and their latents (R, N, C).

    What ``context`` gives of a scene is read each time it is needed.
    """

    def __init__(
        self,
        clips: Clips,
        latents: Tensor,
        context: Callable[[Scene], NDArray[np.uint8] | None] | None = None,
    ) -> None:
        self.clips, self.latents, self.context = clips, latents, context
        self.shape: Shape = (clips.frames.shape[1], clips.frames.shape[2], clips.frames.shape[3])

    def __len__(self) -> int:
        return len(self.clips.scenes)

    def scene(self, row: int) -> Scene:
        """Of the clips."""
        return self.clips.scenes[row]

    def load(self, row: int) -> Example:
        """All of it.

        Raises:
            UnusableVideo: a context clip cannot be used.
        """
        scene = self.scene(row)
        context = self.context(scene) if self.context is not None else None
        return Example(scene=scene, shape=self.shape, latents=self.latents[row], context=context)

    def example(self, row: int, loaded: Example) -> Example:
        """It is all there."""
        return loaded


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What was decoded for a row."""

    frames: NDArray[np.uint8]
    """(F, H, W, 3)."""
    context: NDArray[np.uint8] | None
    """As ``Example.context``."""


class Videos:
    """Videos and pictures, decoded, cut to size and encoded each time they are needed."""

    def __init__(
        self,
        scenes: Sequence[Scene],
        model: UnifiedModel,
        sizes: Sequence[Size],
        limits: Limits,
        text: Text,
        *,
        context_clips: bool = False,
    ) -> None:
        """Of the model's number of frames and rate, a picture of one frame; ``text`` is what the model reads.

        With ``context_clips`` it also reads frames of the preceding scenes' clips, where there are any.

        Raises:
            ConfigError: the VAE does not divide one of the sizes.
        """
        self.scenes, self.model, self.sizes, self.limits = scenes, model, sizes, limits
        self.text: Text = text
        self.context_clips = context_clips
        for height, width in sizes:
            model.grid(geometry_of(model, (model.geometry.num_frames, height, width)))

    def __len__(self) -> int:
        return len(self.scenes)

    def scene(self, row: int) -> Scene:
        """Of the manifest."""
        return self.scenes[row]

    def frames(self, row: int) -> NDArray[np.uint8]:
        """(F, H, W, 3)."""
        return load_clip(self.scene(row), self.model.geometry, self.sizes, self.limits)

    def context(self, row: int) -> NDArray[np.uint8] | None:
        """As ``context_frames``; None where they are not read."""
        return context_frames(self.scene(row), self.model, self.limits) if self.context_clips else None

    def load(self, row: int) -> Loaded:
        """Both."""
        return Loaded(frames=self.frames(row), context=self.context(row))

    def example(self, row: int, loaded: Loaded) -> Example:
        """Each alone, so that its numbers do not depend on which others are in its batch."""
        frames, context = loaded.frames, loaded.context
        return Example(
            scene=self.scene(row),
            shape=(frames.shape[0], frames.shape[1], frames.shape[2]),
            latents=self.model.encode_frames(frames[None])[0].cpu(),
            hidden=self.hidden(row, context),
            context=context,
        )

    def hidden(self, row: int, context: NDArray[np.uint8] | None) -> Tensor | None:
        """(Q, W), what Qwen says at the queries of text and context; None where they are trained."""
        if self.model.connector.queries.requires_grad:
            return None
        text, template = text_of(self.scene(row), self.text), TEMPLATES[self.text]
        with torch.no_grad():
            return self.model.read_texts([text], template=template, clips=[context])[0].cpu()


class Precomputed:
    """As ``Videos``, from shards; see ``pretrain.precompute``."""

    def __init__(self, videos: Videos, latents: TensorShards, hidden: TensorShards | None) -> None:
        self.videos, self.latents, self.hidden = videos, latents, hidden

    def __len__(self) -> int:
        return len(self.videos)

    def scene(self, row: int) -> Scene:
        """Of the manifest."""
        return self.videos.scene(row)

    def load(self, row: int) -> Example:
        """All of it.

        Raises:
            UnusableVideo: it could not be encoded when the shards were made; or its context clip, which is
                read now where the queries are trained.
        """
        latents, note = self.latents.read(row)
        if latents is None:
            raise UnusableVideo(note["kind"], note["why"])
        frames, height, width = note["shape"]
        hidden = context = None
        if self.hidden is None:
            context = self.videos.context(row)
        else:
            hidden, note = self.hidden.read(row)
            if hidden is None:
                raise UnusableVideo(note["kind"], note["why"])
        shape = frames, height, width
        return Example(scene=self.scene(row), shape=shape, latents=latents, hidden=hidden, context=context)

    def example(self, row: int, loaded: Example) -> Example:
        """It is all there."""
        return loaded


def geometry_of(model: UnifiedModel, shape: Shape) -> Geometry:
    """Of clips of a shape, at the model's rate."""
    return Geometry(num_frames=shape[0], height=shape[1], width=shape[2], fps=model.geometry.fps)


def load_clip(scene: Scene, geometry: Geometry, sizes: Sequence[Size], limits: Limits) -> NDArray[np.uint8]:
    """A scene's clip (F, H, W, 3) in the nearest of the sizes; F is 1 of a picture.

    Raises:
        UnusableVideo: it cannot be used.
    """
    path = scene.video or Path()
    if scene.video is None:
        raise UnusableVideo("missing", "has no video")
    if is_picture(path):
        return sample_picture(path, sizes, limits)
    return sample_clip(path, geometry.num_frames, geometry.fps, sizes, limits)


def usable_clips(scenes: Sequence[Scene], geometry: Geometry, limits: Limits, skipped: Path) -> Clips:
    """Every clip that can be used, in memory and of one shape, for the stages that want them so.

    Raises:
        ConfigError: none can; the file ``skipped`` has the reasons.
    """
    listed, kept, frames = Skipped(skipped), [], []
    shape = geometry.height, geometry.width
    for scene in scenes:
        try:
            clip = load_clip(scene, geometry, [shape], limits)
            if len(clip) != geometry.num_frames:
                raise UnusableVideo("too short", "is a picture, where clips are needed")
        except UnusableVideo as error:
            listed.add(scene, error)
        else:
            kept.append(scene)
            frames.append(clip)
    if not kept:
        raise ConfigError(f"no clip can be used; {skipped} has the reasons")
    return Clips(scenes=kept, frames=np.stack(frames), fps=geometry.fps)
