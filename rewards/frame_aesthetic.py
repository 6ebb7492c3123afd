"""How much people would like single frames, as LAION's predictor on CLIP's embeddings sees it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlnsp.declaration import declares
from rlnsp.settings import ConfigError
from rlnsp.types import Sample

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

WEIGHTS = "openai/clip-vit-large-patch14"
REMEDY = (
    f"Download it (OpenAI's, MIT): hf download {WEIGHTS} --include '*.json' '*.safetensors' "
    "--local-dir clip, and give rewards.NAME.config.model=clip."
)
HEAD = "sac+logos+ava1-l14-linearMSE"
HEAD_REMEDY = (
    "Download the head (LAION's, Apache-2.0), which is published as a pickle, and convert it: "
    "curl -LO 'https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/"
    f"{HEAD}.pth' && python -c \"import torch; from safetensors.torch import save_file; "
    f"save_file(torch.load('{HEAD}.pth', weights_only=True, map_location='cpu'), 'aesthetic.safetensors')\"; "
    "then give rewards.NAME.config.head=aesthetic.safetensors."
)
WIDTHS = (1024, 128, 64, 16, 1)
LAYERS = (0, 2, 4, 6, 7)
"""Their places in the published network; dropout, which is off, has the others."""


@declares(range=(-math.inf, math.inf))
class FrameAesthetic:
    """The mean over some frames of LAION's aesthetic score, trained on ratings of 1 to 10.  Not bounded.

    CLIP's image embedding, made a unit vector, then five linear layers with nothing in between (github.com/
    christophschuhmann/improved-aesthetic-predictor, ``sac+logos+ava1-l14-linearMSE``), as DDPO
    (arXiv:2305.13301) rewards it.  It knows nothing of the scene and of motion: alone it is hacked.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The published head goes with CLIP ViT-L/14 alone."""

        head: str
        """The head's weights, a .safetensors file."""
        model: str = WEIGHTS
        """A folder or a model hub's id."""
        revision: str | None = None
        """Of a hub's id."""
        num_frames: int = 8
        """Looked at, evenly from the first to the last."""
        batch_size: int = 64
        """Frames at a time."""
        device: str = "auto"
        offload: bool = False
        """Keep the model on the CPU between calls."""

        def __post_init__(self) -> None:
            for name in ("num_frames", "batch_size"):
                if getattr(self, name) < 1:
                    raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")

    def __init__(self, config: Config) -> None:
        import torch
        from torch import nn
        from transformers import CLIPModel
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        from rlnsp.pretrained import OnDevice, load_model, load_part

        self.config = config
        clip: Any = load_model(CLIPModel, config.model, REMEDY, torch.float32, config.revision)
        head = load_head(Path(config.head).expanduser(), clip.config.projection_dim)
        both = nn.ModuleList([clip, head])
        self.model: OnDevice[Any] = OnDevice(both, config.device, offload=config.offload)
        self.images = load_part(CLIPImageProcessorPil, config.model, REMEDY, config.revision)

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        """One score a sample."""
        import numpy as np
        import torch

        from rlnsp.pretrained import evenly

        clips = [evenly(sample.frames, self.config.num_frames) for sample in samples]
        frames, size = np.concatenate(clips), self.config.batch_size
        with self.model.use() as model:
            clip, head = model
            parts = []
            for start in range(0, len(frames), size):
                embeds = clip.get_image_features(self._see(frames[start : start + size])).pooler_output
                parts.append(head(embeds / embeds.norm(dim=-1, keepdim=True))[:, 0])
            of_clips = torch.cat(parts).split([len(one) for one in clips])
            return [float(of_clip.mean()) for of_clip in of_clips]

    def _see(self, frames: np.ndarray) -> Tensor:
        from PIL import Image

        images = self.images([Image.fromarray(frame) for frame in frames], return_tensors="pt")
        return images["pixel_values"].to(self.model.device)


def load_head(path: Path, width: int) -> nn.Module:
    """The published head, for embeddings of ``width``.

    Raises:
        ConfigError: no such file, another format, or a head for another CLIP.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from torch import nn

    if not path.is_file():
        raise ConfigError(f"head={path}: there is no such file. {HEAD_REMEDY}")
    ends = [width, *WIDTHS]
    head = nn.Sequential(*(nn.Linear(a, b) for a, b in zip(ends, WIDTHS, strict=False)))
    names = {f"layers.{old}.": f"{new}." for new, old in enumerate(LAYERS)}
    try:
        weights = load_file(path)
        head.load_state_dict({_renamed(name, names): weight for name, weight in weights.items()})
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"head={path} is not the head for this CLIP: {reason}. {HEAD_REMEDY}") from error
    return head


def _renamed(name: str, names: dict[str, str]) -> str:
    return next((new + name.removeprefix(old) for old, new in names.items() if name.startswith(old)), name)
