"""The plug-in and its settings.  Cheap to import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from policies.first_frame import first_frames, require_context_clips
from policies.settings import FirstFrame, PipelineSettings
from policies.text_to_video import TextToVideo

if TYPE_CHECKING:
    from policies.ltx_video.model import LTXVideoModel
    from rlnsp.plan.outline import Outline
    from rlnsp.types import Condition, Scene


@dataclass(frozen=True, kw_only=True)
class LTXVideoSettings(PipelineSettings):
    """Clips and lengths are those that LTXPipeline makes unless told otherwise."""

    num_frames: int = 161
    """8 k + 1."""
    height: int = 512
    width: int = 704
    fps: float = 25.0
    max_length: int = 128
    first_frame: FirstFrame = "none"
    """What a clip begins with; see there."""
    decode_timestep: float = 0.05
    """For VAEs with timestep conditioning (LTX 0.9.5 on)."""
    decode_noise_scale: float = 0.025


class LTXVideo(TextToVideo[LTXVideoSettings]):
    """LTX-Video (arXiv 2501.00103) from a folder or hub id of diffusers' LTXPipeline, ready for RL."""

    Config = LTXVideoSettings
    model: LTXVideoModel

    def load(self, config: LTXVideoSettings) -> LTXVideoModel:
        """The parts that ``config`` names, on the CPU, nothing in them trainable."""
        from policies.ltx_video.model import load_model

        return load_model(config)

    def encode(self, scenes: Sequence[Scene]) -> Condition:
        """A row a scene: its context in the template, and the frame that ``first_frame`` says.

        Raises:
            ConfigError: a context too long; a clip that is needed is not there, or cannot be read.
        """
        condition = super().encode(scenes)
        if self.config.first_frame == "none":
            return condition
        frames = first_frames(scenes, (self.config.height, self.config.width))
        return replace(condition, first=self.model.encode_first(frames))

    def check_scenes(self, scenes: Sequence[Scene]) -> None:
        """Raise ConfigError for a scene without the context clip that ``first_frame`` needs."""
        if self.config.first_frame == "context":
            require_context_clips(scenes)

    def split_tokens(self, count: int) -> None:
        """By Ulysses; see ``policies.context_parallel``."""
        from policies.context_parallel import split_tokens

        own = self.config.first_frame != "none"
        split_tokens(self._dit, self.model.grid.num_tokens, count, timestep_a_token=own)

    @classmethod
    def outline(cls, config: LTXVideoSettings) -> Outline:
        """The policy without weights, for ``rlnsp plan``."""
        from policies import pipeline_outlines

        return pipeline_outlines.ltx_video(config)
