"""Weights of a judge, by from_pretrained; whatever is wrong said in one line."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlnsp.settings import ConfigError

if TYPE_CHECKING:
    from rewards.nsp_reward.local import LocalConfig

FAMILIES = ("qwen2_vl", "qwen2_5_vl")
FILES = ("*.safetensors", "*.json", "*.jinja")


def load_qwen(config: LocalConfig) -> tuple[Any, Any, Any]:
    """Model (for inference, on the CPU), tokenizer and image processor.

    Raises:
        ConfigError: neither a folder nor a hub's id, something missing, or a model of another family.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer, GenerationConfig
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.utils import logging

    folder = Path(config.model).expanduser()
    if not folder.is_dir() and (config.model.count("/") != 1 or config.model.startswith((".", "~", "/"))):
        raise ConfigError(f"transformers.model: {config.model} is neither a folder nor a model hub's id")
    path = str(folder) if folder.is_dir() else config.model
    how: dict[str, Any] = {"revision": config.revision, "local_files_only": config.local_files_only}
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # it would tear the run's own
    try:
        family = AutoConfig.from_pretrained(path, **how).model_type
        if family not in FAMILIES:
            raise ConfigError(
                f"transformers.model: {path} is a {family}; this judge reads {' and '.join(FAMILIES)}. "
                "Serve it by `rlnsp judge serve`, and choose judge openai"
            )
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[config.dtype]
        # The library draws weights before it reads them; torch's global generator is left as it was.
        with torch.random.fork_rng(devices=[]):
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                path, dtype=dtype, use_safetensors=True, output_loading_info=True, **how
            )
        model, info = loaded
        tokenizer = AutoTokenizer.from_pretrained(path, **how)
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(path, **how)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"transformers.model: {path} cannot be loaded: {reason}") from error
    finally:
        if shown:
            logging.enable_progress_bar()
    if missing := sorted(info["missing_keys"]):
        raise ConfigError(
            f"transformers.model: {path} lacks the weights {missing[0]!r} ({len(missing)} in all)"
        )
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
    return model.requires_grad_(False).eval(), tokenizer, image_processor


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
