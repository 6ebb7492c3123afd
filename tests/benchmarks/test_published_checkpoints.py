"""Published checkpoints, at full size and without weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from benchmarks import published_checkpoints as checks
from benchmarks.sparse_checkpoint import count, lay_out, shapes_of, write_hollow
from policies.published import PARTS
from policies.settings import Source
from policies.unified.weights import load_vae
from rlnsp.settings import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", sorted(PARTS))
def test_parameters_and_files_are_those_published_to_the_byte(name):
    found = checks.figures(PARTS[name])
    known = PARTS[name].parameters is not None or PARTS[name].file_bytes is not None
    assert found["agrees"] is (True if known else None)
    assert f"{found['parameters']:,}" in (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


def test_most_figures_are_known():
    assert sum(bool(part.parameters or part.file_bytes) for part in PARTS.values()) >= 6


def test_the_papers_model_opens_from_its_published_parts(tmp_path):
    opened = checks.open_unified(tmp_path)
    assert opened.connector == "256 x 3584 -> 4096 -> 4096"
    assert opened.lora_layers == 28 * 10  # a block's two attentions have four, its feed-forward two
    assert opened.tokens == 9 * 15 * 26


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda shapes: shapes.pop("decoder.conv_in.conv.bias"),
            "lack 'decoder.conv_in.conv.bias' (1 in all)",
        ),
        (lambda shapes: shapes.update({"decoder.conv_in.conv.bias": (511,)}), "decoder.conv_in.conv.bias"),
    ],
)
def test_a_tensor_that_is_missing_or_of_another_shape_is_seen(tmp_path, change, says):
    part = PARTS["ltx_vae"]
    shapes = shapes_of(checks.on_meta(part), {})
    change(shapes)
    config = {"_class_name": part.class_name, **part.config}
    lay_out(tmp_path, config, shapes, "fp32", 1, "diffusion_pytorch_model")
    with pytest.raises(ConfigError) as refused:
        load_vae(Source(path=str(tmp_path)))
    assert says in str(refused.value)


def test_what_was_not_loaded_is_seen():
    with pytest.raises(AssertionError, match="weights are missing"):
        checks.taken("wan_vae", checks.on_meta(PARTS["wan_vae"]))
    with pytest.raises(AssertionError, match="decoder"):
        checks.taken("wan_vae", torch.nn.Module())


def test_a_hollow_file_is_a_safetensors_file_of_zeros(tmp_path):
    shapes = {"b": (3,), "a": (2, 2)}
    size = write_hollow(tmp_path / "x.safetensors", shapes, "bf16")
    assert (tmp_path / "x.safetensors").stat().st_size == size
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert {name: tuple(file.get_tensor(name).shape) for name in file.keys()} == shapes  # noqa: SIM118
        assert not file.get_tensor("a").any()
        assert file.get_tensor("a").dtype == torch.bfloat16


def test_shards_share_the_tensors_out_and_the_index_knows_where(tmp_path):
    shapes = {f"w{i}": (10, 10) for i in range(12)}
    lay_out(tmp_path, {}, shapes, "fp32", 3, "model")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * count(shapes) == 4800
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert files == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    for file in files:
        with safe_open(tmp_path / file, framework="pt") as found:
            names = set(found.keys())
        assert len(names) == 4
        assert names == {name for name, where in index["weight_map"].items() if where == file}
