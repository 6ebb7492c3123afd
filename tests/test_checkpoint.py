import json

import pytest
import torch

from rlnsp import checkpoint
from rlnsp.checkpoint import Trained, newest_intact, save
from rlnsp.ema import EMA
from rlnsp.optimisation import make_optimizer
from rlnsp.settings import ConfigError, TrainerConfig
from rlnsp.testing import ToyPolicy


def trained(width=8, ema=True):
    policy = ToyPolicy(ToyPolicy.Config(width=width))
    optimizer = make_optimizer(policy, TrainerConfig())
    for _, value in policy.named_trainable():
        value.grad = torch.ones_like(value)
    optimizer.step()
    return Trained(
        policy=policy, optimizer=optimizer, ema=EMA(dict(policy.named_trainable()), 0.9) if ema else None
    )


def test_a_checkpoint_gives_back_what_was_saved(tmp_path):
    one, other = trained(), trained()
    for _, value in one.policy.named_trainable():
        value.data.add_(1.0)
    assert one.ema is not None
    assert other.ema is not None
    one.ema.update()
    one.optimizer.step()
    path = save(tmp_path, 7, one, {"wall_s": 1.5}, keep_last=2)
    assert checkpoint.load(path, other) == (7, {"wall_s": 1.5})
    for (name, value), (_, same) in zip(
        one.policy.named_trainable(), other.policy.named_trainable(), strict=True
    ):
        assert torch.equal(value, same)
        assert torch.equal(one.ema.average[name], other.ema.average[name])
        for key, state in one.optimizer.state[value].items():
            assert torch.equal(state, other.optimizer.state[same][key])


def test_only_the_newest_are_kept(tmp_path):
    state = trained()
    for iteration in (2, 10, 9):
        save(tmp_path, iteration, state, {}, keep_last=2)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-9", "step-10"]


def test_a_save_that_is_cut_short_leaves_the_one_before(tmp_path, monkeypatch):
    state = trained()
    first = save(tmp_path, 1, state, {}, keep_last=1)

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(state.policy, "save_adapter", full)
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path, 2, state, {}, keep_last=1)
    assert newest_intact(tmp_path) == first
    monkeypatch.undo()
    save(tmp_path, 2, state, {}, keep_last=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-2"]


@pytest.mark.parametrize("damage", ["truncated", "missing", "no list"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage):
    state = trained()
    first, second = (save(tmp_path, iteration, state, {}, keep_last=2) for iteration in (1, 2))
    victim = second / ("state.json" if damage == "no list" else "optimizer.safetensors")
    if damage == "truncated":
        victim.write_bytes(victim.read_bytes()[:-1])
    else:
        victim.unlink()
    assert newest_intact(tmp_path) == first


def test_no_checkpoint_is_none(tmp_path):
    assert newest_intact(tmp_path / "nowhere") is None


def test_a_checkpoint_of_another_policy_is_refused(tmp_path):
    path = save(tmp_path, 1, trained(width=4), {}, keep_last=1)
    with pytest.raises(ConfigError, match="holds other trained weights"):
        checkpoint.load(path, trained(width=8))


def test_a_checkpoint_without_an_average_is_refused_where_one_is_kept(tmp_path):
    path = save(tmp_path, 1, trained(ema=False), {}, keep_last=1)
    with pytest.raises(ConfigError, match="lacks ema.safetensors"):
        checkpoint.load(path, trained())


def test_the_state_is_plain_json_with_the_size_of_every_file(tmp_path):
    path = save(tmp_path, 1, trained(), {"reward": {}}, keep_last=1)
    state = json.loads((path / "state.json").read_text())
    assert set(state["files"]) == {
        "trained.safetensors", "ema.safetensors", "optimizer.safetensors", "adapter/adapter_model.safetensors"
    }  # fmt: skip
