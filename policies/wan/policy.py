"""The plug-in and its settings.  Cheap to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from policies.settings import PipelineSettings, require_positive
from policies.text_to_video import TextToVideo

if TYPE_CHECKING:
    from policies.wan.model import WanModel
    from rlnsp.plan.outline import Outline


@dataclass(frozen=True, kw_only=True)
class WanSettings(PipelineSettings):
    """Clips and lengths are those that WanPipeline makes unless told otherwise."""

    num_frames: int = 81
    """4 k + 1."""
    height: int = 480
    width: int = 832
    fps: float = 16.0
    max_length: int = 512
    flow_shift: float | None = None
    """Of the schedule.  None: as the folder's scheduler has it; Wan's authors use 3 at 480p and 5 at 720p."""
    spacing: Literal["wan", "euler"] = "wan"
    """``wan``: even, then shifted once, as the scheduler that Wan comes with has its sigmas.  ``euler``: what
    WanPipeline has once it is given diffusers' FlowMatchEulerDiscreteScheduler, which shifts the end of an
    even schedule before it shifts all of it, so that the last step begins next to 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, ("flow_shift",))


class Wan(TextToVideo[WanSettings]):
    """Wan2.1 (arXiv 2503.20314) from a folder or hub id of diffusers' WanPipeline, ready for RL."""

    Config = WanSettings

    def load(self, config: WanSettings) -> WanModel:
        """The parts that ``config`` names, on the CPU, nothing in them trainable."""
        from policies.wan.model import load_model

        return load_model(config)

    @classmethod
    def outline(cls, config: WanSettings) -> Outline:
        """The policy without weights, for ``rlnsp plan``."""
        from policies import pipeline_outlines

        return pipeline_outlines.wan(config)
