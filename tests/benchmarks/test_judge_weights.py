import hashlib
import json

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from benchmarks.judge_weights import ship
from policies.settings import Source
from policies.unified.weights import load_comprehension
from pretrain.judge import CHAT_TEMPLATE, JudgeConfig
from tests.policies.tiny import make_policy_folder


def test_a_judge_ships_in_half_precision_with_a_manifest_of_all_its_files(tmp_path):
    judge = load_comprehension(Source(path=str(make_policy_folder(tmp_path / "tiny") / "comprehension")))
    weights = {name: value.clone() for name, value in judge.model.state_dict().items()}
    judge.tokenizer.chat_template = CHAT_TEMPLATE
    to = tmp_path / "judge"
    (to / "old").mkdir(parents=True)
    manifest = ship(judge, JudgeConfig(seed=3), {"seconds": 2.0, "cpu_seconds": 1.0}, to)
    assert json.loads((to / "manifest.json").read_text()) == manifest
    files = {path.name: path for path in to.iterdir() if path.name != "manifest.json"}
    assert files.keys() == manifest["files"].keys()
    for name, path in files.items():
        assert manifest["files"][name]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (manifest["seconds"], manifest["settings"]["seed"]) == (2.0, 3)
    assert (to / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    assert [path.name for path in tmp_path.iterdir() if "writing" in path.name] == []
    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(to)
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float16
        assert torch.allclose(value.float(), weights[name], atol=1e-3)
