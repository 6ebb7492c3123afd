"""A CLIP of random weights, small enough for a test, in the hub's own layout."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from rlnsp.pretrained import without_bars

WIDTH = 12
"""Of the embeddings that are compared."""


def tokenizer() -> CLIPTokenizer:
    """Without a merge: a token a byte, and each once more for the end of a word."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[])


def save_clip(folder: Path) -> Path:
    """A whole CLIP folder, the same each time; 32 x 32 pixels, 77 tokens."""
    words = tokenizer()
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": len(words), "bos_token_id": words.bos_token_id}
    config = CLIPConfig(
        text_config={**text, "eos_token_id": words.eos_token_id, "max_position_embeddings": 77},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=WIDTH,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(config)
        for parameter in model.parameters():  # CLIP's own are so small that all pictures look alike
            torch.nn.init.normal_(parameter, std=0.2)
    with without_bars():
        model.save_pretrained(folder)
    words.save_pretrained(folder)
    size: Any = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessorPil(**size).save_pretrained(folder)
    return folder
