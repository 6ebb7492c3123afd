"""A small tokenizer in Qwen2's format: byte-level BPE, Qwen's special tokens and chat format."""

from collections.abc import Sequence

from tokenizers import pre_tokenizers
from transformers import Qwen2Tokenizer

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer() -> Qwen2Tokenizer:
    """Without a merge: the special tokens, then a token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], additional_special_tokens=list(SPECIAL[1:]))
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_tokenizer(corpus: Sequence[str], vocab_size: int) -> Qwen2Tokenizer:
    """Byte-level BPE of ``corpus``."""
    tokenizer = byte_tokenizer().train_new_from_iterator(corpus, vocab_size, show_progress=False)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.pad_token = "<|endoftext|>"
    return tokenizer
