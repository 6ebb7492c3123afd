"""What ``rlnsp pretrain`` and ``rlnsp sft`` may be told."""

from dataclasses import dataclass, field

from policies.latents import Geometry
from policies.settings import Source
from pretrain.comprehension import ComprehensionConfig
from pretrain.diffusion import DiffusionConfig
from pretrain.vae import VAEConfig
from pretrain.work import RESERVED, DataConfig
from rlnsp.settings import ConfigError

BEFORE = ("comprehension", "vae", "initial")
"""The stages before the text-to-video ones; the first two do not build on each other."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The size of a fresh ``LTXVideoTransformer3DModel``, and of the connector into it."""

    layers: int = 6
    heads: int = 4
    head_dim: int = 32
    caption_channels: int = 128
    num_queries: int = 16
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class PartsConfig:
    """Parts that come ready, from a folder or a hub; one without a path is made here."""

    comprehension: Source = field(default_factory=Source)
    vae: Source = field(default_factory=Source)
    transformer: Source = field(default_factory=Source)
    scheduler: Source = field(default_factory=Source)
    """Without a path: LTX-Video's."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """``rlnsp pretrain``: comprehension, VAE, then text-to-video sub-stages in order."""

    data: DataConfig = field(default_factory=DataConfig)
    parts: PartsConfig = field(default_factory=PartsConfig)
    geometry: Geometry = field(default_factory=lambda: Geometry(num_frames=9, height=64, width=64, fps=8.0))
    comprehension: ComprehensionConfig = field(default_factory=ComprehensionConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    text_to_video: dict[str, DiffusionConfig] = field(default_factory=dict)
    """Sub-stages by name, in order."""
    device: str = "auto"
    """Of the sub-stages.  ``auto``: the process's CUDA device if there is one, else the CPU."""
    threads: int = 2
    rank_timeout_s: float = 1800.0
    """Of several processes: how long one waits for another before it gives up."""

    def __post_init__(self) -> None:
        for name in self.text_to_video:
            if name in (*BEFORE, *RESERVED) or not name.isidentifier():
                raise ConfigError(
                    f"text_to_video.{name}: a sub-stage gets a folder of its name in the output; give it "
                    f"a plain word other than {', '.join((*BEFORE, *RESERVED))}"
                )
        if self.parts.vae.path is None:
            self.vae.check_geometry(self.geometry)
        _check_timeout(self.rank_timeout_s)


@dataclass(frozen=True, kw_only=True)
class SFTConfig:
    """``rlnsp sft``: a policy folder learns next-scene pairs."""

    data: DataConfig = field(default_factory=DataConfig)
    added_queries: str = ""
    """A text of which each token becomes one more latent query, after those that the policy has: what the
    comprehension model would say next after these words, the DiT gets to see.  Prompt tuning that starts from
    a text (arXiv 2104.08691, section 3.2)."""
    sft: DiffusionConfig = field(default_factory=lambda: DiffusionConfig(text="context"))
    device: str = "auto"
    """As ``PretrainConfig.device``; and so the next two."""
    threads: int = 2
    rank_timeout_s: float = 1800.0

    def __post_init__(self) -> None:
        _check_timeout(self.rank_timeout_s)


def _check_timeout(seconds: float) -> None:
    if seconds <= 0:
        raise ConfigError(f"rank_timeout_s must be positive; got {seconds}")
