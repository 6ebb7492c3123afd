"""VideoAlign's published files, of random weights and small enough for a test: names, shapes and all."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from pretrain.tokenizer import SPECIAL, byte_tokenizer
from rlnsp.pretrained import without_bars

WIDTH, VOCABULARY = 16, len(SPECIAL) + 256
TOKENS = ["<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>"]
CODE = '''
raise SystemExit("this code must not be run")
DETAILED_PROMPT_WITH_SPECIAL_TOKEN = """
Look: <|VQ_reward|>
Motion: <|MQ_reward|>
"{text_prompt}": <|TA_reward|>
"""
DETAILED_PROMPT = """another"""
'''
SETTINGS: dict[str, dict[str, Any]] = {
    "data_config": {
        "max_frame_pixels": 64 * 64,
        "num_frames": None,
        "fps": 2.0,
        "eval_dim": ["VQ", "MQ", "TA"],
        "prompt_template_type": "detailed_special",
        "sample_type": "uniform",
    },
    "model_config": {"output_dim": 1, "use_special_tokens": True, "reward_token": "special"},
    "peft_lora_config": {"lora_enable": True, "lora_r": 2, "lora_alpha": 6, "use_rslora": False},
    "inference_config": {
        "VQ_mean": 0.5,
        "VQ_std": 2.0,
        "MQ_mean": -0.25,
        "MQ_std": 0.5,
        "TA_mean": 0.125,
        "TA_std": 4.0,
    },
}


class RewardModel(Qwen2VLForConditionalGeneration):
    """As published: a head beside the one for words."""

    def __init__(self, config: Qwen2VLConfig) -> None:
        super().__init__(config)
        self.rm_head = nn.Linear(WIDTH, 1, bias=False)


@dataclass(frozen=True)
class Published:
    """What was downloaded, and the model it came from, its LoRA not merged."""

    checkpoint: Path
    base: Path
    prompts: Path
    model: Any


def publish(home: Path) -> Published:
    """The same each time."""
    with torch.random.fork_rng(devices=[]), without_bars():
        torch.manual_seed(0)
        base = _base(home / "base")
        model = RewardModel(_config(VOCABULARY + len(TOKENS)))
        targets = r"model\.language_model\.layers.*(q_proj|k_proj|v_proj|o_proj|up_proj|gate_proj|down_proj)"
        with catch_warnings():  # peft asks for an attribute of transformers that is on its way out
            simplefilter("ignore", FutureWarning)
            model = get_peft_model(model, LoraConfig(r=2, lora_alpha=6, target_modules=targets)).eval()
        for name, parameter in model.named_parameters():
            # As large as what it is added to, so that leaving it out shows.
            nn.init.normal_(parameter, std=0.3 if "lora_" in name or "rm_head" in name else 0.15)
    step = home / "published" / "checkpoint-12"
    step.mkdir(parents=True)
    torch.save({_old_name(name): value for name, value in model.state_dict().items()}, step / "model.pth")
    (home / "published" / "checkpoint-9").mkdir()
    (home / "published" / "checkpoint-9" / "model.pth").write_bytes(b"an older one")
    (home / "published" / "model_config.json").write_text(json.dumps(SETTINGS))
    (home / "prompt_template.py").write_text(CODE)
    return Published(home / "published", base, home / "prompt_template.py", model)


def _old_name(name: str) -> str:
    """Of transformers before 5, which the checkpoint was saved with."""
    name = name.replace("base_model.model.model.visual.", "base_model.model.visual.")
    return name.replace("base_model.model.model.language_model.", "base_model.model.model.")


def _base(folder: Path) -> Path:
    folder.mkdir()
    _config(VOCABULARY).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    Qwen2VLImageProcessorPil(patch_size=4).save_pretrained(folder)
    return folder


def _config(vocabulary: int) -> Qwen2VLConfig:
    ids: Any = {f"{name}_token_id": SPECIAL.index(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    return Qwen2VLConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": WIDTH,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        },
        vision_config={
            "depth": 2,
            "embed_dim": 16,
            "hidden_size": WIDTH,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 4,
        },
        image_token_id=SPECIAL.index("<|image_pad|>"),
        video_token_id=SPECIAL.index("<|video_pad|>"),
        tie_word_embeddings=True,
        **ids,
    )
