"""Weights of a judge, by from_pretrained, and what tells them from others."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlnsp.settings import ConfigError

if TYPE_CHECKING:
    from rewards.nsp_reward.local import LocalConfig

FAMILIES = ("qwen2_vl", "qwen2_5_vl")
REMEDY = "transformers.model takes a Qwen-VL: its folder, or its id on a model hub."
FILES = ("*.safetensors", "*.json", "*.jinja")


def load_qwen(config: LocalConfig) -> tuple[Any, Any, Any]:
    """Model (for inference, on the CPU), tokenizer and image processor.

    Raises:
        ConfigError: neither a folder nor a hub's id, something missing, or a model of another family.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer, GenerationConfig
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from rlnsp.pretrained import DTYPES, load_model, load_part

    path = config.model
    how: dict[str, Any] = {"revision": config.revision, "local_files_only": config.local_files_only}
    family = load_part(AutoConfig, path, REMEDY, **how).model_type
    if family not in FAMILIES:
        raise ConfigError(
            f"transformers.model: {path} is a {family}; this judge reads {' and '.join(FAMILIES)}. "
            "Serve it by `rlnsp judge serve`, and choose judge openai"
        )
    kind: Any = AutoModelForImageTextToText
    model: Any = load_model(kind, path, REMEDY, DTYPES[config.dtype], **how)
    tokenizer = load_part(AutoTokenizer, path, REMEDY, **how)
    image_processor = load_part(Qwen2VLImageProcessorPil, path, REMEDY, **how)
    if not tokenizer.chat_template:
        raise ConfigError(
            f"transformers.model: {path} has no chat template; take a model that follows instructions"
        )
    ends = model.generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else [*(ends or [tokenizer.eos_token_id])]
    # Its own defaults may hold a temperature and a penalty for repetition.
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )
    return model, tokenizer, image_processor


def version_of(config: LocalConfig, model: Any) -> tuple[str, str]:
    """The model's name, and what tells its files from others: a hub's commit, or a hash of a folder's."""
    folder = Path(config.model).expanduser()
    if not folder.is_dir():
        return config.model, str(model.config._commit_hash)
    digest = hashlib.sha256()
    for path in sorted(path for pattern in FILES for path in folder.glob(pattern)):
        with path.open("rb") as file:
            digest.update(f"{path.name}\n{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return folder.resolve().name, digest.hexdigest()
