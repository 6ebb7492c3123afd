"""The plug-in and its settings.  Cheap to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from policies.settings import PipelineSettings
from policies.text_to_video import TextToVideo

if TYPE_CHECKING:
    from policies.ltx_video.model import LTXVideoModel
    from rlnsp.plan.outline import Outline


@dataclass(frozen=True, kw_only=True)
class LTXVideoSettings(PipelineSettings):
    """Clips and lengths are those that LTXPipeline makes unless told otherwise."""

    num_frames: int = 161
    """8 k + 1."""
    height: int = 512
    width: int = 704
    fps: float = 25.0
    max_length: int = 128
    decode_timestep: float = 0.05
    """For VAEs with timestep conditioning (LTX 0.9.5 on)."""
    decode_noise_scale: float = 0.025


class LTXVideo(TextToVideo[LTXVideoSettings]):
    """LTX-Video (arXiv 2501.00103) from a folder or hub id of diffusers' LTXPipeline, ready for RL."""

    Config = LTXVideoSettings

    def load(self, config: LTXVideoSettings) -> LTXVideoModel:
        """The parts that ``config`` names, on the CPU, nothing in them trainable."""
        from policies.ltx_video.model import load_model

        return load_model(config)

    @classmethod
    def outline(cls, config: LTXVideoSettings) -> Outline:
        """The policy without weights, for ``rlnsp plan``."""
        from policies import pipeline_outlines

        return pipeline_outlines.ltx_video(config)
