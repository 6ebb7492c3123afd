"""What ``rlnsp curate`` may be told."""

from dataclasses import dataclass, field
from typing import Literal

from rlnsp.chat import ChatConfig, FramesConfig
from rlnsp.dataset.safety import Limits
from rlnsp.settings import require

Check = Literal["consistent", "restates"]
PairKind = Literal["written", "consecutive"]


@dataclass(frozen=True, kw_only=True)
class ClipsConfig:
    """The clips that are written: of one length and rate, in one of a few shapes."""

    num_frames: int = 65
    height: int = 480
    width: int = 832
    fps: float = 16.0
    shapes: list[list[int]] = field(default_factory=list)
    """[height, width] each: the one whose aspect ratio is nearest to the video's is taken.  Empty:
    the one above."""
    space: int = 32
    """Pixels along the edge of a latent, which every height and width must be a multiple of; LTX's is 32."""
    time: int = 8
    """Frames of a latent frame: there are ``time`` k + 1 frames; LTX's is 8."""

    def __post_init__(self) -> None:
        require(self.fps > 0, f"clips.fps must be above 0; got {self.fps}")
        for name in ("num_frames", "space", "time"):
            require(getattr(self, name) >= 1, f"clips.{name} must be at least 1; got {getattr(self, name)}")
        require(
            (self.num_frames - 1) % self.time == 0,
            f"clips.num_frames must be {self.time} k + 1 for the VAE; got {self.num_frames}",
        )
        for shape in [[self.height, self.width], *self.shapes]:
            require(
                len(shape) == 2 and all(edge > 0 and edge % self.space == 0 for edge in shape),
                f"clips: [height, width] must be multiples of {self.space} for the VAE; got {shape}",
            )
        require(self.space % 2 == 0, f"clips.space must be even, as H.264 wants sizes; got {self.space}")

    @property
    def all_shapes(self) -> list[tuple[int, int]]:
        """(height, width) each."""
        return [(shape[0], shape[1]) for shape in self.shapes] or [(self.height, self.width)]


@dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """Where one scene of a video ends and the next begins, by PySceneDetect."""

    detector: Literal["adaptive", "content", "none"] = "adaptive"
    """``content``: the picture changes from one frame to the next; ``adaptive``: more than around it, which a
    moving camera does not; ``none``: a video is a scene."""
    threshold: float = 3.0
    """The detector's own: of ``adaptive`` a ratio (its default 3), of ``content`` a difference (27)."""
    min_seconds: float = 0.5
    """A cut sooner after another does not count."""
    height: int = 144
    """Pixels, to which frames are scaled down first."""

    def __post_init__(self) -> None:
        for name in ("threshold", "min_seconds"):
            require(getattr(self, name) > 0, f"scenes.{name} must be positive; got {getattr(self, name)}")
        require(self.height >= 16, f"scenes.height must be at least 16; got {self.height}")


@dataclass(frozen=True, kw_only=True)
class CurateConfig:
    """``rlnsp curate``: from videos to next-scene pairs."""

    clips: ClipsConfig = field(default_factory=ClipsConfig)
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    pairs: list[PairKind] = field(default_factory=lambda: ["written", "consecutive"])
    """``written``: a scene of a video, and a preceding scene that a model wrote; ``consecutive``: two scenes
    of a video that follow each other."""
    captions: Literal["given", "made"] = "given"
    """``given``: a video that is one scene keeps the caption it came with; ``made``: none does."""
    checks: list[Check] = field(default_factory=lambda: ["consistent", "restates"])
    """What a pair must pass, in this order: the next scene follows from the preceding one; which does not
    already tell it."""
    rewrites: int = 3
    """How often a preceding scene that fails a check is written anew."""
    heldout: float = 0.0
    """Share of the videos whose pairs get the split heldout, by a hash of the video's id; those that are
    heldout in their data set get it anyway."""
    prompts: str = "paper"
    """A packaged set, or a folder with files of the same names."""
    frames: FramesConfig = field(default_factory=FramesConfig)
    """What the captioner is shown of a clip."""
    vlm: ChatConfig = field(default_factory=ChatConfig)
    """Captions."""
    llm: ChatConfig | None = None
    """Writes and checks; none: the captioner does."""
    caption_tokens: int = 256
    """The longest caption; and so below."""
    context_tokens: int = 128
    verdict_tokens: int = 128
    workers: int = 2
    """Threads that decode and encode."""
    videos_at_once: int = 16
    """Under way; what is decoded of them is in memory."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        require(
            bool(self.pairs) and len(set(self.pairs)) == len(self.pairs),
            f"pairs must name written, consecutive or both, each once; got {self.pairs}",
        )
        require(
            bool(self.checks) and len(set(self.checks)) == len(self.checks),
            f"checks must name consistent, restates or both, each once; got {self.checks}",
        )
        require(self.rewrites >= 0, f"rewrites must be 0 or more; got {self.rewrites}")
        require(0 <= self.heldout < 1, f"heldout must be in [0, 1); got {self.heldout}")
        for name in ("caption_tokens", "context_tokens", "verdict_tokens", "workers", "videos_at_once"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1; got {getattr(self, name)}")
