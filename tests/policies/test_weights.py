"""The policy folder: written whole, read bit for bit, refused in one line when it is not whole."""

import json
import shutil
import subprocess
import sys
from typing import Any

import pytest
import torch

from policies.settings import Source
from policies.unified import Unified, files
from policies.unified.weights import load_model, save_policy
from rlnsp.settings import ConfigError
from tests.policies.tiny import GEOMETRY, make_model, make_policy_folder, save_model


@pytest.fixture
def copy(policy_folder, tmp_path):
    return shutil.copytree(policy_folder, tmp_path / "copy")


def load(folder, **settings):
    return load_model(Unified.Config(folder=str(folder), **settings))


def test_a_saved_policy_comes_back_bit_for_bit(policy_folder):
    made, loaded = make_model().state_dict(), load(policy_folder).state_dict()
    assert made.keys() == loaded.keys()
    for name, value in made.items():
        assert torch.equal(loaded[name], value), name
        assert loaded[name].dtype == torch.float32


def test_a_loaded_policy_says_what_the_saved_one_said(policy_folder):
    made, loaded = make_model(), load(policy_folder)
    assert loaded.geometry == made.geometry
    assert torch.equal(loaded.sigmas(8), made.sigmas(8))
    assert torch.equal(loaded.encode_texts(["a ball"]).embeds, made.encode_texts(["a ball"]).embeds)


def test_half_precision_is_widened_on_loading_and_leaves_the_model_alone(tmp_path):
    model = make_model()
    half = save_model(model, tmp_path / "half", half=True)
    whole = make_policy_folder(tmp_path / "whole")
    size = {f: sum(p.stat().st_size for p in f.rglob("*.safetensors")) for f in (half, whole)}
    assert size[half] < 0.65 * size[whole]
    for name, value in load(half).state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, model.state_dict()[name].half().float(), rtol=0, atol=0)


def test_saving_replaces_a_folder_whole_and_leaves_nothing_beside_it(copy):
    (copy / "stale").write_text("")
    save_model(make_model(seed=1), copy)
    assert {p.name for p in copy.parent.iterdir()} == {"copy"}
    assert {p.name for p in copy.iterdir()} == {"policy.json", *files.PARTS}
    assert not torch.equal(
        load(copy).connector.proj_in.weight, make_model().transformer.get_parameter("proj_in.bias")
    )
    expected = make_model(seed=1).transformer.state_dict()["proj_in.weight"]
    assert torch.equal(load(copy).transformer.state_dict()["proj_in.weight"], expected)


def test_a_stage_writes_its_part_and_copies_the_rest(policy_folder, tmp_path):
    other = make_model(seed=1)
    save_policy(tmp_path / "next", geometry=GEOMETRY, vae=other.vae, rest_from=policy_folder)
    loaded, first = load(tmp_path / "next").state_dict(), make_model().state_dict()
    for name, value in loaded.items():
        expected = other.state_dict()[name] if name.startswith("vae.") else first[name]
        assert torch.equal(value, expected), name


def test_a_part_can_come_from_elsewhere(policy_folder, tmp_path):
    other = make_policy_folder(tmp_path / "other", seed=1)
    loaded = load(policy_folder, vae=Source(path=str(other), subfolder="vae"), fps=4.0)
    assert torch.equal(loaded.vae.state_dict()["encoder.conv_in.conv.weight"],
                       make_model(seed=1).vae.state_dict()["encoder.conv_in.conv.weight"])  # fmt: skip
    assert loaded.geometry.fps == 4.0


def test_without_a_folder_every_part_is_given_and_the_connector_may_be_fresh(policy_folder):
    parts: dict[str, Any] = {p: Source(path=str(policy_folder / p)) for p in files.PARTS if p != "connector"}
    config = Unified.Config(folder=None, num_frames=5, height=32, width=64, fps=8.0, num_queries=6, **parts)
    connector = load_model(config).connector
    assert connector.queries.shape == (6, 32)
    assert connector.config["hidden"] == connector.config["out"] == 24


def test_parts_that_do_not_fit_are_refused(policy_folder, tmp_path):
    from policies.unified.connector import new_connector

    new_connector(num_queries=2, width=16, out=24).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"connector's width is 16, the comprehension's hidden size 32"):
        load(policy_folder, connector=Source(path=str(tmp_path)))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


DAMAGE = [
    ("", shutil.rmtree, "does not exist"),
    ("policy.json", lambda p: p.unlink(), "has no policy.json"),
    ("policy.json", lambda p: p.write_text("{"), "policy.json is not readable as JSON"),
    (
        "policy.json",
        lambda p: p.write_text('{"format": "other"}'),
        "reads rlnsp.unified version 1, not other",
    ),
    ("vae", shutil.rmtree, "this policy's vae is missing"),
    ("transformer/config.json", lambda p: p.unlink(), "transformer/config.json is missing"),
    ("scheduler/scheduler_config.json", lambda p: p.write_text("no"), "is not readable as JSON"),
    ("comprehension/config.json", lambda p: p.write_text("[]"), "a JSON object was expected"),
    ("comprehension/tokenizer.json", lambda p: p.unlink(), "tokenizer.json is missing"),
    ("comprehension/preprocessor_config.json", lambda p: p.unlink(), "image processor"),
    ("comprehension/model.safetensors", truncate, "model.safetensors is damaged"),
    (
        "vae/diffusion_pytorch_model.safetensors",
        lambda p: p.write_bytes(b"abc"),
        "truncated or no safetensors",
    ),
    ("connector/diffusion_pytorch_model.safetensors", lambda p: p.unlink(), "no .safetensors file"),
]


@pytest.mark.parametrize(("what", "damage", "message"), DAMAGE, ids=[f"{w}-{m[:20]}" for w, _, m in DAMAGE])
def test_a_damaged_folder_is_one_line_that_names_the_file(copy, what, damage, message):
    damage(copy / what)
    with pytest.raises(ConfigError, match=message) as caught:
        load(copy)
    assert "\n" not in str(caught.value)
    assert str(copy / what.split("/")[0] if "/" in what else copy) in str(caught.value)


def test_a_missing_weight_is_an_error_and_not_a_random_number(copy):
    from safetensors.torch import load_file, save_file

    path = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["proj_out.bias"]
    save_file(tensors, path)
    with pytest.raises(ConfigError, match=r"transformer's weights lack 'proj_out.bias' \(1 in all\)"):
        load(copy)


def test_the_shipped_folder_is_named_in_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr("policies.__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(ConfigError, match="make world-weights"):
        files.policy_folder("world")


def test_a_path_that_is_not_there_is_not_looked_for_on_a_hub(policy_folder):
    with pytest.raises(ConfigError, match=r"runs/of/mine: this policy's vae is missing"):
        load(policy_folder, vae=Source(path="runs/of/mine"))


def test_a_wrong_number_in_policy_json_is_named(copy):
    content = json.loads((copy / "policy.json").read_text())
    (copy / "policy.json").write_text(json.dumps({**content, "fps": "fast"}))
    with pytest.raises(ConfigError, match="'fps' must be a positive number, not 'fast'"):
        load(copy)


def test_importing_the_plug_in_is_cheap():
    code = "import sys, policies.unified; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
