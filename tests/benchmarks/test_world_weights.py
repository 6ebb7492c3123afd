import hashlib
import json
from dataclasses import replace

import pytest

from benchmarks import world_weights
from benchmarks.world_weights import (
    PRETRAINED,
    WITHOUT,
    TooLarge,
    share_clips,
    ship,
    size_of,
    stage_records,
    without_pretraining,
)
from pretrain import stages
from rlnsp import config
from tests.policies.tiny import make_policy_folder


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_policy_folder(tmp_path_factory.mktemp("policy") / "tiny")


def never():
    raise AssertionError("there is no room for it, so it must not be made")


def test_the_manifest_names_every_file_that_ships_with_its_hash(policy, tmp_path):
    (tmp_path / "sft" / "sft").mkdir(parents=True)
    (tmp_path / "sft" / "sft" / "done.json").write_text('{"seconds": 5.0}')
    to = tmp_path / "policies"
    manifest = ship(
        policy, {PRETRAINED: lambda: policy}, tmp_path, to, {"sft": {"sft": {"loop": {"seed": 3}}}}
    )
    found = {str(path.relative_to(to)): path for path in to.rglob("*") if path.is_file()}
    assert json.loads(found.pop("world/manifest.json").read_text()) == manifest
    assert manifest["files"].keys() == found.keys()
    for name, path in found.items():
        assert manifest["files"][name]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {path.name for path in (to / PRETRAINED).iterdir()} == {"transformer", "connector", "policy.json"}
    assert manifest["seeds"] == {"sft.sft.loop.seed": 3}
    assert manifest["stages"] == {"sft/sft": {"seconds": 5.0, "heldout_loss": None}}


def test_weights_ship_in_half_precision(policy, tmp_path):
    ship(policy, {}, tmp_path, tmp_path / "policies", {})
    whole, half = (size_of(folder / "vae") for folder in (policy, tmp_path / "policies" / "world"))
    assert 0.45 * whole < half < 0.65 * whole


def test_what_does_not_fit_is_left_out_and_an_old_one_of_it_removed(policy, tmp_path):
    to = tmp_path / "policies"
    ship(policy, {PRETRAINED: lambda: policy, WITHOUT: lambda: policy}, tmp_path, to, {})
    extra = size_of(to / PRETRAINED)
    limit = size_of(to / "world") - (to / "world/manifest.json").stat().st_size + world_weights.MANIFEST_ROOM
    manifest = ship(policy, {PRETRAINED: lambda: policy, WITHOUT: never}, tmp_path, to, {}, limit + extra)
    assert (manifest["folders"], manifest["left_out"]) == (["world", PRETRAINED], [WITHOUT])
    assert sorted(path.name for path in to.iterdir()) == ["world", PRETRAINED]
    manifest = ship(policy, {PRETRAINED: lambda: policy}, tmp_path, to, {}, limit + extra - 1)
    assert manifest["left_out"] == [PRETRAINED]
    assert [path.name for path in to.iterdir()] == ["world"]
    with pytest.raises(TooLarge):
        ship(policy, {}, tmp_path, to, {}, limit - 1)
    assert (to / "world" / "policy.json").is_file()


def test_a_stages_record_has_its_time_over_all_sittings_and_its_last_heldout_loss(tmp_path):
    for name, mark in (("data", {"settings": {}}), ("vae", {"seconds": 10.0}), ("initial", {"seconds": 0.1})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "done.json").write_text(json.dumps(mark))
    lines = [{"heldout_loss": 2.0, "seconds": 50.0}, {"heldout_loss": 1.0, "seconds": 70.0}, {"step": 3}]
    (tmp_path / "vae" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert dict(stage_records(tmp_path)) == {
        "vae": {"seconds": 70.0, "heldout_loss": 1.0},
        "initial": {"seconds": 0.1, "heldout_loss": None},
    }


def test_no_pretraining_is_stage_1_with_nothing_but_its_beginning_and_then_stage_2(
    policy, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(stages, "pretrain", lambda *given: asked.append(given) or given[1] / "policy")
    monkeypatch.setattr(stages, "sft", lambda *given: asked.append(given) or given[2] / "policy")
    made = without_pretraining(tmp_path, policy, made=tmp_path / "absent")
    assert made == tmp_path / "sft" / "policy"
    (settings, start), (tuning, given, _) = asked
    whole = config.load_typed(stages.PretrainConfig, "world", folder="pretrain")
    assert settings == replace(whole, text_to_video={}) != whole
    assert tuning == config.load_typed(stages.SFTConfig, "world", folder="sft")
    assert given == start / "policy"
    name = "comprehension/model.safetensors"
    assert (given / name).read_bytes() == (policy / name).read_bytes()
    marks = {path.parent.name: json.loads(path.read_text()) for path in start.glob("*/done.json")}
    assert marks.keys() == {"comprehension", "vae"}
    assert all("settings" not in mark for mark in marks.values())  # else they would be compared


def test_clips_are_drawn_once(tmp_path):
    data = tmp_path / "pretrain" / "data"
    data.mkdir(parents=True)
    (data / "manifest.jsonl").write_text("{}\n")
    share_clips(tmp_path / "pretrain", tmp_path / "sft")
    assert not (tmp_path / "sft").exists()  # they are not finished
    (data / "done.json").write_text("{}")
    for _ in range(2):
        share_clips(tmp_path / "pretrain", tmp_path / "sft")
    assert (tmp_path / "sft" / "data" / "manifest.jsonl").read_text() == "{}\n"
