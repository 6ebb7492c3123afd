"""What is asked of a hub is what the settings say, untouched."""

from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, T5EncoderModel, T5Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from policies.loading import load_scheduler
from policies.ltx_video.policy import LTXVideoSettings
from policies.pipeline import load_text_encoder, load_tokenizer
from policies.settings import Source
from policies.unified import weights
from rlnsp.settings import ConfigError
from tests.policies.tiny import comprehension, transformer, vae

HOW = {"subfolder": "part", "revision": "abc123", "local_files_only": True}
SOURCE = Source(path="some/model", subfolder="part", revision="abc123", local_files_only=True)
SETTINGS = LTXVideoSettings(folder="some/model", revision="abc123", local_files_only=True)


@pytest.fixture
def hub(monkeypatch):
    """Of each class, what its ``from_pretrained`` was asked; it answers with a small part."""
    asked: dict[str, tuple[str, dict[str, Any]]] = {}

    def answers(kind, make):
        def from_pretrained(path, **how):
            asked[kind.__name__] = (path, how)
            nothing_missing = {"missing_keys": []}
            return (make(), nothing_missing) if how.get("output_loading_info") else make()

        monkeypatch.setattr(kind, "from_pretrained", from_pretrained)

    small = comprehension()
    answers(LTXVideoTransformer3DModel, transformer)
    answers(AutoencoderKLLTXVideo, vae)
    answers(FlowMatchEulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler)
    answers(Qwen2_5_VLForConditionalGeneration, lambda: small.model)
    answers(AutoTokenizer, lambda: small.tokenizer)
    answers(Qwen2VLImageProcessorPil, lambda: small.image_processor)
    answers(T5EncoderModel, torch.nn.Module)
    answers(T5Tokenizer, lambda: None)
    return asked


def test_every_part_of_the_unified_model_is_asked_for_as_it_is_named(hub):
    weights.load_transformer(SOURCE)
    weights.load_vae(SOURCE)
    weights.load_comprehension(SOURCE)
    load_scheduler(SOURCE)
    assert len(hub) == 6
    for path, how in hub.values():
        assert path == "some/model"
        assert {key: how[key] for key in HOW} == HOW


def test_every_part_of_a_pipeline_is_asked_for_in_its_own_folder(hub):
    load_text_encoder(T5EncoderModel, SETTINGS)
    load_tokenizer(SETTINGS)
    assert {kind: how["subfolder"] for kind, (_, how) in hub.items()} == {
        "T5EncoderModel": "text_encoder",
        "T5Tokenizer": "tokenizer",
    }
    for path, how in hub.values():
        assert (path, how["revision"], how["local_files_only"]) == ("some/model", "abc123", True)


def test_only_safetensors_are_asked_for_and_the_settings_precision(hub):
    weights.load_transformer(SOURCE, dtype=torch.bfloat16)
    weights.load_comprehension(SOURCE, dtype=torch.bfloat16)
    for kind, word in (
        ("LTXVideoTransformer3DModel", "torch_dtype"),
        ("Qwen2_5_VLForConditionalGeneration", "dtype"),
    ):
        _, how = hub[kind]
        assert how["use_safetensors"] is True
        assert how[word] == torch.bfloat16
    assert not any(how.get("trust_remote_code") for _, how in hub.values())


@pytest.mark.parametrize("path", ["absent", "./some/model", "a/b/c"])
def test_what_is_neither_a_folder_nor_a_hubs_id_asks_nobody(hub, path):
    with pytest.raises(ConfigError, match="Give a folder or a model hub's id"):
        weights.load_vae(Source(path=path))
    assert hub == {}
