"""Visual quality, motion quality and text alignment, as VideoAlign's reward model sees them.

Shapes: B clips, F frames, H, W pixels, L tokens, D hidden width, N patches, P numbers of a patch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rewards.video_reward.layout import DIMENSIONS, HEAD, PLACE, REMEDY, TOKENS, read_prompt, read_published
from rlnsp.declaration import declares
from rlnsp.settings import ConfigError
from rlnsp.types import Explanation, Sample, Scene

if TYPE_CHECKING:
    from torch import Tensor, nn

FEWEST, MOST, FACTOR = 4, 768, 2
"""Frames that are looked at, where the clip has as many; always a multiple of the last."""
Clip = NDArray[np.uint8]


@declares(range=(-math.inf, math.inf))
class VideoReward:
    """Human preference in three dimensions: visual quality, motion quality, text alignment.  Not bounded.

    VideoAlign's Qwen2-VL-2B (arXiv:2501.13918, github.com/KwaiVGI/VideoAlign).  Its prompt holds a token for
    each dimension; one linear head reads the last hidden state at each, and the raw scores are made
    comparable by the published means and deviations.  The score is their weighted sum; with all weights 1 it
    is the published overall score.  0 is a middling clip, 1 a deviation better.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The checkpoint's own settings, such as frames and pixels, are in its folder."""

        model: str
        """The folder that ``python -m rewards.video_reward.convert`` makes."""
        text: Literal["context", "caption"] = "context"
        """What the clip should show: the preceding scene, or the manifest's caption of the next."""
        visual_quality: float = 1.0
        """The weight of this dimension; as the next two."""
        motion_quality: float = 1.0
        text_alignment: float = 1.0
        batch_size: int = 8
        """Clips at a time."""
        dtype: Literal["fp32", "bf16"] = "bf16"
        """Of the weights; bf16 is the published one, and rounds a little differently in other batches."""
        device: str = "auto"
        offload: bool = False
        """Keep the model on the CPU between calls."""

        def __post_init__(self) -> None:
            if self.batch_size < 1:
                raise ValueError(f"batch_size must be at least 1; got {self.batch_size}")
            if not any(self.weights):
                raise ValueError("one of visual_quality, motion_quality, text_alignment must not be 0")

        @property
        def weights(self) -> tuple[float, float, float]:
            """Of ``DIMENSIONS``."""
            return self.visual_quality, self.motion_quality, self.text_alignment

    def __init__(self, config: Config) -> None:
        from torch import nn
        from transformers import AutoTokenizer, Qwen2VLModel
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        from rlnsp.pretrained import DTYPES, OnDevice, load_model, load_part

        folder = Path(config.model).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"model={folder}: there is no such folder. {REMEDY}")
        self.config, self.published, self.prompt = config, read_published(folder), read_prompt(folder)
        qwen: Any = load_model(Qwen2VLModel, str(folder), REMEDY, DTYPES[config.dtype])
        head = _load_head(folder / HEAD, qwen.config.text_config.hidden_size)
        both = nn.ModuleList([qwen, head])
        self.model: OnDevice[Any] = OnDevice(both, config.device, offload=config.offload)
        self.ids = qwen.config
        self.tokenizer = load_part(AutoTokenizer, str(folder), REMEDY)
        self.images = load_part(Qwen2VLImageProcessorPil, str(folder), REMEDY)
        self.tokens = [self.tokenizer.convert_tokens_to_ids(token) for token in TOKENS]
        if None in self.tokens or self.tokenizer.unk_token_id in self.tokens:
            raise ConfigError(f"model={folder}: the tokenizer lacks {' '.join(TOKENS)}. {REMEDY}")

    def check_scenes(self, scenes: Sequence[Scene]) -> None:
        """Raise ValueError for the first scene whose text is missing or would be taken for something else."""
        for scene in scenes:
            text = getattr(scene, self.config.text)
            if not text:
                raise ValueError(f"scene {scene.id!r} has no {self.config.text}; give it one, or set text")
            if held := [token for token in self.tokenizer.get_added_vocab() if token in text]:
                raise ValueError(f"scene {scene.id!r}: its text holds {held[0]}, a token of the model's")

    def __call__(self, samples: Sequence[Sample]) -> list[float | None]:
        """One score a sample; None for a clip of a single frame."""
        return [
            None if one is None else sum(w * x for w, x in zip(self.config.weights, one, strict=True))
            for one in self._dimensions(samples)
        ]

    def explain(self, samples: Sequence[Sample]) -> list[Explanation | None]:
        """The three dimensions."""
        return [
            None
            if one is None
            else Explanation(verdict=", ".join(f"{n} {x:+.2f}" for n, x in zip(DIMENSIONS, one, strict=True)))
            for one in self._dimensions(samples)
        ]

    def _dimensions(self, samples: Sequence[Sample]) -> list[list[float] | None]:
        """Of each sample the three published scores."""
        rows = [row for row, sample in enumerate(samples) if len(sample.frames) >= FACTOR]
        found: list[list[float] | None] = [None] * len(samples)
        size = self.config.batch_size
        with self.model.use() as model:
            qwen, head = model
            for some in (rows[start : start + size] for start in range(0, len(rows), size)):
                inputs = self._inputs([samples[row] for row in some])
                hidden = qwen(**inputs, use_cache=False).last_hidden_state
                raw = head(_at(hidden, inputs["input_ids"], self.tokens).float())[..., 0]
                for row, values in zip(some, raw.tolist(), strict=True):
                    found[row] = [
                        (value - self.published.mean[name]) / self.published.std[name]
                        for name, value in zip(DIMENSIONS, values, strict=True)
                    ]
        return found

    def _inputs(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Rows padded on the right, as the model was trained."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        seen = [self._patches(_sampled(one.frames, one.fps, self.published.fps)) for one in samples]
        grids = torch.tensor([grid for _, grid in seen])
        counts = grids.prod(-1) // self.images.merge_size**2
        texts = [str(getattr(one.scene, self.config.text)) for one in samples]
        rows = [torch.tensor(self._ids(t, n)) for t, n in zip(texts, counts.tolist(), strict=True)]
        ids = pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        lengths = torch.tensor([len(row) for row in rows])
        inputs = {
            "input_ids": ids,
            "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
            "mm_token_type_ids": 2 * (ids == self.ids.video_token_id).int(),  # 2 is video
            "pixel_values_videos": torch.from_numpy(np.concatenate([patches for patches, _ in seen])),
            "video_grid_thw": grids,
        }
        return {name: value.to(self.model.device) for name, value in inputs.items()}

    def _ids(self, text: str, num_video_tokens: int) -> list[int]:
        start, video, end = self.tokenizer.convert_ids_to_tokens(
            [self.ids.vision_start_token_id, self.ids.video_token_id, self.ids.vision_end_token_id]
        )
        content = f"{start}{video * num_video_tokens}{end}{self.prompt.replace(PLACE, text)}"
        turn = [{"role": "user", "content": content}]
        prompt = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        return self.tokenizer(prompt, add_special_tokens=False)["input_ids"]

    def _patches(self, frames: Clip) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
        """(N, P) and how many they are in time, height and width; in Qwen2-VL's order, by merged squares."""
        from PIL import Image
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        of, published = self.images, self.published
        p, t, m = of.patch_size, of.temporal_patch_size, of.merge_size
        height, width = frames.shape[1:3]
        height, width = smart_resize(height, width, p * m, published.min_pixels, published.max_pixels)
        images = [Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC) for one in frames]
        resized = [np.asarray(image) for image in images]
        mean, std = (np.asarray(one, np.float32) for one in (of.image_mean, of.image_std))
        pixels = (np.stack(resized).astype(np.float32) / np.float32(255) - mean) / std
        grid = len(frames) // t, height // p, width // p
        blocks = pixels.reshape(grid[0], t, grid[1] // m, m, p, grid[2] // m, m, p, 3)
        return blocks.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(math.prod(grid), -1), grid


def _sampled(frames: Clip, fps: float, wanted: float) -> Clip:
    """An even number of frames, ``wanted`` a second, from the first to the last: as the model was trained."""
    most = min(MOST, len(frames)) // FACTOR * FACTOR
    count = round(min(max(len(frames) / fps * wanted, FEWEST), most) / FACTOR) * FACTOR
    return frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]


def _at(hidden: Tensor, ids: Tensor, tokens: Sequence[int]) -> Tensor:
    """(B, 3, D) of (B, L, D): where each token stands, which every row of ``ids`` (B, L) has once."""
    import torch

    places = torch.stack([(ids == token).int().argmax(-1) for token in tokens], dim=-1)
    return hidden[torch.arange(len(ids), device=ids.device)[:, None], places]


def _load_head(path: Path, width: int) -> nn.Module:
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from torch import nn

    if not path.is_file():
        raise ConfigError(f"{path} is missing. {REMEDY}")
    head = nn.Linear(width, 1, bias=False)
    try:
        head.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}. {REMEDY}") from error
    return head
