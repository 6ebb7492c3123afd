"""Make the folder that ``video_reward`` reads, of what is published.

    python -m rewards.video_reward.convert VideoReward --base Qwen2-VL-2B-Instruct \
        --prompts VideoAlign/prompt_template.py -o video-reward

Published are: ``model_config.json`` and ``checkpoint-*/model.pth``, a pickle of the base's weights with LoRA
beside them, under the names of transformers before 5; the prompt, a string in VideoAlign's code.  The pickle
is read as tensors only, the code is parsed and not run, and the LoRA is merged.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import pickle
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, Qwen2VLConfig, Qwen2VLModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from rewards.video_reward.layout import (
    DIMENSIONS,
    HEAD,
    PROMPT,
    TOKENS,
    Published,
    check_prompt,
    write_published,
)
from rlnsp.pretrained import load_part
from rlnsp.settings import ConfigError, require

PROMPT_NAME = "DETAILED_PROMPT_WITH_SPECIAL_TOKEN"
MIN_PIXELS = 128 * 28 * 28
"""Of a frame, in VideoAlign's ``vision_process.py``; the checkpoint's settings do not say it."""
TRAINED_WITH = {
    "data_config.prompt_template_type": "detailed_special",
    "data_config.sample_type": "uniform",
    "data_config.num_frames": None,
    "model_config.use_special_tokens": True,
    "peft_lora_config.use_rslora": False,
}
"""Settings of the checkpoint that the reward relies on."""
WRAPPER = "base_model.model."
NEW_NAMES = {"visual.": "visual.", "model.": "language_model."}
BASE_REMEDY = "Download the base: hf download Qwen/Qwen2-VL-2B-Instruct --local-dir Qwen2-VL-2B-Instruct."


def main(argv: Sequence[str] | None = None) -> int:
    """Convert; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rewards.video_reward.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="the published folder, KwaiVGI/VideoReward")
    parser.add_argument("--base", type=Path, required=True, help="Qwen/Qwen2-VL-2B-Instruct's folder")
    parser.add_argument("--prompts", type=Path, required=True, help="VideoAlign's prompt_template.py")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="the new folder")
    args = parser.parse_args(argv)
    try:
        convert(args.checkpoint, args.base, args.prompts, args.output)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a command
        return 2
    return 0


def convert(checkpoint: Path, base: Path, prompts: Path, output: Path) -> None:
    """Write ``output``, whole or not at all.

    Raises:
        ConfigError: a file is missing or is not what is published, or ``output`` is there already.
    """
    require(not output.exists(), f"{output} is there already; name another folder, or remove it")
    settings = _read_settings(checkpoint)
    published, prompt = _published(settings), _read_prompt(prompts)
    lora = settings["peft_lora_config"]
    weights = merged(_read_weights(checkpoint), lora["lora_alpha"] / lora["lora_r"])
    tokenizer = load_part(AutoTokenizer, str(base), BASE_REMEDY)
    images = load_part(Qwen2VLImageProcessorPil, str(base), BASE_REMEDY)
    config = Qwen2VLConfig.from_pretrained(base)
    head = weights.pop("rm_head.weight", torch.empty(0))
    require(len(head) == 1, f"{checkpoint}: its head must give one number at a token, not {len(head)}")
    text: Any = config.text_config
    text.vocab_size = len(weights["language_model.embed_tokens.weight"])
    _check_names(weights, config, checkpoint)
    tokenizer.add_special_tokens({"additional_special_tokens": list(TOKENS)})
    require(
        len(tokenizer) <= text.vocab_size,
        f"{base}: its tokenizer has {len(tokenizer)} tokens, the checkpoint {text.vocab_size} embeddings",
    )
    aside = output.with_name(f".{output.name}.partial-{os.getpid()}")
    aside.mkdir(parents=True)
    try:
        config.architectures = ["Qwen2VLModel"]
        for part in (config, tokenizer, images):
            part.save_pretrained(aside)
        save_file(weights, aside / "model.safetensors", metadata={"format": "pt"})
        save_file({"weight": head.float()}, aside / HEAD)
        write_published(aside, published)
        (aside / PROMPT).write_text(prompt)
        aside.rename(output)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def merged(weights: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The weights with their LoRA in them, W + scale B A, under the names of transformers 5's Qwen2VLModel.

    Raises:
        ConfigError: a name is none of the published layout.
    """
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        if ".lora_" in name or name.startswith(f"{WRAPPER}lm_head."):
            continue
        require(name.startswith(WRAPPER), f"model.pth: {name!r} should begin with {WRAPPER!r}")
        stem = name.removeprefix(WRAPPER)
        layer = stem.removesuffix(".base_layer.weight")
        if layer != stem:
            down, up = (weights[f"{WRAPPER}{layer}.lora_{side}.default.weight"] for side in "AB")
            value = (value.float() + scale * up.float() @ down.float()).to(value.dtype)
        found[_new_name(stem.replace(".base_layer.", "."))] = value.contiguous()
    return found


def _new_name(stem: str) -> str:
    if stem == "rm_head.weight":
        return stem
    for old, new in NEW_NAMES.items():
        if stem.startswith(old):
            return new + stem.removeprefix(old)
    raise ConfigError(f"model.pth: {stem!r} is no weight of the published checkpoint")


def _check_names(weights: Mapping[str, Tensor], config: Qwen2VLConfig, checkpoint: Path) -> None:
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in Qwen2VLModel(config).state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    if wrong:
        a, b = given.get(wrong[0]), wanted.get(wrong[0])
        raise ConfigError(
            f"{checkpoint}: {wrong[0]} ({len(wrong)} in all) is {a}, and {b} in the base; is it another base?"
        )


def _read_settings(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / "model_config.json"
    require(path.is_file(), f"{path} is missing; give the folder that KwaiVGI/VideoReward was downloaded to")
    settings = json.loads(path.read_text())
    for name, value in TRAINED_WITH.items():
        part, _, key = name.partition(".")
        given = settings.get(part, {}).get(key)
        require(given == value, f"{path}: {name} is {given!r}; this reward reads checkpoints with {value!r}")
    return settings


def _published(settings: Mapping[str, Any]) -> Published:
    data, scores = settings["data_config"], settings.get("inference_config") or {}
    missing = [f"{d}_{what}" for d in DIMENSIONS for what in ("mean", "std") if f"{d}_{what}" not in scores]
    require(not missing, f"model_config.json: inference_config lacks {', '.join(missing)}")
    return Published(
        fps=data["fps"],
        min_pixels=MIN_PIXELS,
        max_pixels=data["max_frame_pixels"],
        mean={name: scores[f"{name}_mean"] for name in DIMENSIONS},
        std={name: scores[f"{name}_std"] for name in DIMENSIONS},
    )


def _read_weights(checkpoint: Path) -> dict[str, Tensor]:
    found = sorted(checkpoint.glob("checkpoint-*/model.pth"), key=lambda path: int(path.parent.name[11:]))
    require(bool(found), f"{checkpoint}: there is no checkpoint-*/model.pth in it")
    try:
        return torch.load(found[-1], map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{found[-1]} cannot be read as tensors: {reason}") from error


def _read_prompt(path: Path) -> str:
    require(path.is_file(), f"{path} is missing; clone https://github.com/KwaiVGI/VideoAlign for it")
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [PROMPT_NAME]:
            prompt = ast.literal_eval(node.value)
            check_prompt(prompt, str(path))
            return prompt
    raise ConfigError(f"{path}: {PROMPT_NAME} is not in it; give VideoAlign's prompt_template.py")


if __name__ == "__main__":
    raise SystemExit(main())
