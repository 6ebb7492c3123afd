"""How well frames and text agree, as CLIP sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rlnsp.declaration import declares
from rlnsp.types import Sample, Scene

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

WEIGHTS = "openai/clip-vit-large-patch14"
REMEDY = (
    f"Download it (OpenAI's, MIT): hf download {WEIGHTS} --include '*.json' '*.txt' '*.safetensors' "
    "--local-dir clip, and give rewards.NAME.config.model=clip."
)


@declares(range=(-1, 1))
class ClipAlignment:
    """The mean cosine of CLIP's embeddings of some frames and of the scene's text.  In [-1, 1].

    CLIPScore (arXiv:2104.08718) without its factor 2.5 and its cut at 0, and over frames as CLIPSIM is
    (arXiv:2104.14806).  CLIP looks at single frames, so it cannot tell what comes first.  It reads no more
    than 77 tokens: what a longer text says after that has no effect.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Any CLIP of transformers."""

        model: str = WEIGHTS
        """A folder or a model hub's id."""
        revision: str | None = None
        """Of a hub's id."""
        text: Literal["context", "caption"] = "context"
        """What the frames should show: the preceding scene, or the manifest's caption of the next."""
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
        from transformers import CLIPModel, CLIPTokenizer
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        from rlnsp.pretrained import OnDevice, load_model, load_part

        self.config = config
        model: Any = load_model(CLIPModel, config.model, REMEDY, torch.float32, config.revision)
        self.model: OnDevice[Any] = OnDevice(model, config.device, offload=config.offload)
        self.tokenizer = load_part(CLIPTokenizer, config.model, REMEDY, config.revision)
        self.images = load_part(CLIPImageProcessorPil, config.model, REMEDY, config.revision)
        self.longest: int = model.config.text_config.max_position_embeddings

    def check_scenes(self, scenes: Sequence[Scene]) -> None:
        """Raise ValueError for the first scene that lacks the text."""
        for scene in scenes:
            if not getattr(scene, self.config.text):
                raise ValueError(
                    f"scene {scene.id!r} has no {self.config.text}; give it one, or another text"
                )

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        """One score a sample."""
        import numpy as np
        import torch

        from rlnsp.pretrained import evenly

        texts = [str(getattr(sample.scene, self.config.text)) for sample in samples]
        distinct = list(dict.fromkeys(texts))
        clips = [evenly(sample.frames, self.config.num_frames) for sample in samples]
        frames, size = np.concatenate(clips), self.config.batch_size
        with self.model.use() as model:
            words = _unit(model.get_text_features(**self._read(distinct)).pooler_output)
            parts = [
                _unit(model.get_image_features(self._see(frames[start : start + size])).pooler_output)
                for start in range(0, len(frames), size)
            ]
            seen = torch.cat(parts).split([len(clip) for clip in clips])
            return [
                float((of_clip @ words[distinct.index(text)]).mean())
                for of_clip, text in zip(seen, texts, strict=True)
            ]

    def _read(self, texts: list[str]) -> Any:
        how: Any = {"padding": True, "truncation": True, "max_length": self.longest, "return_tensors": "pt"}
        return self.tokenizer(texts, **how).to(self.model.device)

    def _see(self, frames: np.ndarray) -> Tensor:
        from PIL import Image

        images = self.images([Image.fromarray(frame) for frame in frames], return_tensors="pt")
        return images["pixel_values"].to(self.model.device)


def _unit(embeds: Tensor) -> Tensor:
    return embeds / embeds.norm(dim=-1, keepdim=True)
