"""The frozen Qwen2.5-VL that reads the context and answers in latent queries.

Shapes: B rows, L tokens of the longest row, Q queries, W hidden size, F frames of a clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from policies.unified.settings import Limits
from rlnsp.settings import ConfigError

NEXT_SCENE = "Please generate a video showing what happens after this scene: {}"
"""The paper's template, word for word."""
CAPTION = "Please generate a video: {}"
"""For text-to-video pre-training, where the text describes the video itself."""


class Comprehension(nn.Module):
    """Qwen2.5-VL, frozen, with its tokenizer and image processor."""

    def __init__(
        self,
        model: Qwen2_5_VLForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: Qwen2VLImageProcessorPil,
        limits: Limits | None = None,
    ) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.limits = limits or Limits()

    @property
    def width(self) -> int:
        """The hidden size."""
        text: Any = self.model.config.text_config
        return text.hidden_size

    def prompt(self, text: str, num_image_tokens: Sequence[int] = ()) -> str:
        """What the tokenizer reads: frames, then ``text``, a user's turn if it has a chat template.

        The prompt ends where the assistant's answer begins, and there the queries follow.
        """
        token = self.tokenizer.convert_ids_to_tokens
        config = self.model.config
        start, end = token(config.vision_start_token_id), token(config.vision_end_token_id)
        images = "".join(f"{start}{token(config.image_token_id) * n}{end}" for n in num_image_tokens)
        if not self.tokenizer.chat_template:
            return images + text
        turn = [{"role": "user", "content": images + text}]
        return str(self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))

    def forward(
        self, texts: Sequence[str], queries: Tensor, clips: Sequence[np.ndarray | None] | None = None
    ) -> Tensor:
        """Last hidden states at the queries, (B, Q, W), with gradient to ``queries`` (Q, W) alone.

        The queries are new input embeddings directly after each row's own text (MetaQuery, arXiv 2504.06256):
        rows are padded on the left, and padding has no part in attention or in the rotary positions.

        Args:
            texts: one a row, template already applied.
            queries: (Q, W), the same for each row.
            clips: (F, H, W, 3) uint8 a row, or None; read as images before the text.

        Raises:
            ConfigError: a row with its queries is longer than ``limits.max_length``.
        """
        clips = clips or [None] * len(texts)
        pixels, grids, rows = [], [], []
        for text, clip in zip(texts, clips, strict=True):
            counts: list[int] = []
            if clip is not None:
                images = self.images(clip)
                pixels.append(images["pixel_values"])
                grids.append(images["image_grid_thw"])
                counts = (images["image_grid_thw"].prod(-1) // self.image_processor.merge_size**2).tolist()
            rows.append(self._tokenize(text, counts, len(queries)))

        device = queries.device
        longest = max(map(len, rows))
        pad: Any = self.tokenizer.pad_token_id
        pad = self.tokenizer.eos_token_id if pad is None else pad
        # The queries stand in the ids as padding that is attended to: only count and place matter there.
        ids = torch.full((len(rows), longest + len(queries)), pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, longest - len(row) : longest] = torch.tensor(row, dtype=torch.long)
            mask[i, longest - len(row) :] = 1
        ids, mask = ids.to(device), mask.to(device)

        qwen: Any = self.model.model
        is_image = ids == self.model.config.image_token_id
        is_image[:, longest:] = False
        grid = torch.cat(grids).to(device) if grids else None
        embeds = qwen.get_input_embeddings()(ids[:, :longest])
        if grid is not None:
            features = qwen.get_image_features(torch.cat(pixels).to(device), grid).pooler_output
            embeds = embeds.masked_scatter(is_image[:, :longest, None], torch.cat(features).to(embeds.dtype))
        positions, _ = qwen.get_rope_index(ids, is_image.int(), image_grid_thw=grid, attention_mask=mask)
        # Attention is causal and nothing before the queries is trained: the text is read without gradient,
        # and only the queries' own positions keep what a backward pass needs.
        with torch.no_grad():
            read = qwen.language_model(
                inputs_embeds=embeds,
                attention_mask=mask[:, :longest],
                position_ids=positions[..., :longest],
                use_cache=True,
            )
        return qwen.language_model(
            inputs_embeds=queries.to(embeds.dtype).expand(len(rows), -1, -1),
            attention_mask=mask,
            position_ids=positions[..., longest:],
            past_key_values=read.past_key_values,
            use_cache=True,
        ).last_hidden_state

    def embeddings(self, text: str) -> Tensor:
        """(L, W), the input embeddings of the tokens of ``text``: no template, no special tokens."""
        ids: Any = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self.model.get_input_embeddings().get_parameter("weight").detach()[torch.tensor(ids)]

    def images(self, clip: np.ndarray) -> dict[str, Tensor]:
        """What the vision tower takes of a clip (F, H, W, 3) uint8: some of its frames, as images."""
        index = np.linspace(0, len(clip) - 1, min(len(clip), self.limits.clip_frames)).round().astype(int)
        smallest, largest = (self.image_processor.size[edge] for edge in ("shortest_edge", "longest_edge"))
        size = {
            "shortest_edge": smallest,
            "longest_edge": max(smallest, min(largest, self.limits.clip_max_pixels)),
        }
        frames = [Image.fromarray(clip[i]) for i in index]
        return dict(self.image_processor(images=frames, size=size, return_tensors="pt"))

    def _tokenize(self, text: str, num_image_tokens: Sequence[int], num_queries: int) -> list[int]:
        ids = self.tokenizer(self.prompt(text, num_image_tokens), add_special_tokens=False)["input_ids"]
        ids = [int(i) for i in ids]  # pyright: ignore[reportGeneralTypeIssues]
        if ids.count(self.model.config.image_token_id) != sum(num_image_tokens):
            raise ConfigError(
                f"context {text[:60]!r}: it holds the image token itself; take it out of the text."
            )
        if len(ids) + num_queries > self.limits.max_length:
            raise ConfigError(
                f"context {text[:60]!r}: {len(ids)} tokens and {num_queries} queries are more than the "
                f"{self.limits.max_length} of limits.max_length. Shorten it, or lower limits.clip_frames or "
                "limits.clip_max_pixels."
            )
        return ids
