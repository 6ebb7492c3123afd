import hashlib
import json
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.file_faults import FileFaults, full_disk, kill
from rlnsp import checkpoint
from rlnsp.atomic import WriteFailed
from rlnsp.checkpoint import Trained, fault, prune, save
from rlnsp.ema import EMA
from rlnsp.optimisation import make_optimizer
from rlnsp.settings import ConfigError, TrainerConfig
from rlnsp.testing import ToyPolicy

CONFIG = "seed: 0\n"


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
    path = save(tmp_path, 7, one, {"wall_s": 1.5}, CONFIG)
    assert checkpoint.load(path, other) == (7, {"wall_s": 1.5})
    for (name, value), (_, same) in zip(
        one.policy.named_trainable(), other.policy.named_trainable(), strict=True
    ):
        assert torch.equal(value, same)
        assert torch.equal(one.ema.average[name], other.ema.average[name])
        for key, state in one.optimizer.state[value].items():
            assert torch.equal(state, other.optimizer.state[same][key])


@pytest.mark.parametrize("steps", [0, 1])
def test_an_update_that_fails_half_way_is_taken_back(steps):
    def change(one):
        for _, value in one.policy.named_trainable():
            value.grad = torch.full_like(value, 0.5)
        one.optimizer.step()
        one.ema.update()
        return 1

    def numbers(one):
        weights = [value for _, value in one.policy.named_trainable()]
        state = [part for value in weights for part in one.optimizer.state[value].values()]
        return [*weights, *one.ema.average.values(), *state, torch.tensor(one.ema.updates)]

    straight, cut = trained(), trained()
    for one in (straight, cut):
        for _ in range(steps):
            change(one)
    with pytest.raises(ZeroDivisionError), cut.whole_or_not():
        assert change(cut) / 0
    for one in (straight, cut):
        change(one)
    assert all(torch.equal(a, b) for a, b in zip(numbers(straight), numbers(cut), strict=True))


def names(folder):
    return [path.name for path in checkpoint.checkpoints(folder)]


@pytest.mark.parametrize(
    ("newest", "keep_last", "best", "left"),
    [
        (10, 2, (), ["step-9", "step-10"]),
        (10, 1, (2, 9), ["step-2", "step-9", "step-10"]),
        (9, 1, (), ["step-9"]),  # step-10 was damaged, and the run went back behind it
        (9, 5, (2,), ["step-2", "step-9"]),
    ],
)
def test_the_newest_and_the_best_are_kept(tmp_path, newest, keep_last, best, left):
    state = trained()
    for iteration in (2, 9, 10):
        save(tmp_path, iteration, state, {}, CONFIG)
    prune(tmp_path, newest, keep_last, best)
    assert names(tmp_path) == left


def forked(act):
    """What ``act`` comes to in a process of its own: its exit code, or the number of the signal, negative."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = act() or 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_save_that_is_killed_at_any_moment_leaves_a_checkpoint_to_go_on_from(tmp_path):
    """Killed at every file operation in turn; what is left is the one before or the new one, never less."""
    one, other = trained(), trained()
    one.optimizer.step()
    left = set()
    at = 0
    for at in range(200):
        folder = tmp_path / str(at)
        save(folder, 1, one, {}, CONFIG)

        def act(at=at, folder=folder):
            faults = FileFaults(at, kill)
            with faults.armed():
                save(folder, 2, one, {}, CONFIG)
                prune(folder, 2, 1)
            return 7

        code = forked(act)
        intact = [path for path in checkpoint.checkpoints(folder) if fault(path) is None]
        left.add(intact[-1].name)
        assert checkpoint.load(intact[-1], other)[0] == int(intact[-1].name[-1])
        assert weights_of(other) == weights_of(one)
        save(folder, 2, one, {}, CONFIG)  # and the next save is as if nothing had been
        prune(folder, 2, 1)
        assert [path.name for path in folder.iterdir()] == ["step-2"]
        assert fault(folder / "step-2") is None
        if code == 7:
            break
        assert code == -signal.SIGKILL
    assert at > 20
    assert left == {"step-1", "step-2"}


def weights_of(state):
    return [(name, value.tolist()) for name, value in state.policy.named_trainable()]


def test_a_disk_that_is_full_at_any_moment_is_one_error_and_nothing_is_left_half_written(tmp_path):
    state = trained()
    faults = FileFaults(0, full_disk)
    save(tmp_path, 1, state, {}, CONFIG)
    at = 0
    for at in range(200):
        faults.at, faults.count = at, 0
        refused = None
        try:
            with faults.armed():
                save(tmp_path, 2, state, {}, CONFIG)
        except WriteFailed as error:
            refused = str(error)
        if faults.count <= at:
            break  # there are no more
        if refused is None:  # the folder of checkpoints was there already
            shutil.rmtree(tmp_path / "step-2")
            continue
        assert refused.endswith("step-2: cannot be written (No space left on device); free some space")
        assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    assert at > 10
    assert fault(tmp_path / "step-2") is None


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "one bit": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name", ["optimizer.safetensors", "state.json", "adapter/adapter_model.safetensors", "files.json"]
)
def test_damage_to_any_file_is_found_and_named(tmp_path, name, damage):
    path = save(tmp_path, 1, trained(), {}, CONFIG)
    assert fault(path) is None
    DAMAGES[damage](path / name)
    assert name in (fault(path) or "")


def test_a_checkpoint_that_is_there_is_left_alone_and_a_damaged_one_replaced(tmp_path):
    state = trained()
    path = save(tmp_path, 1, state, {"first": True}, CONFIG)
    assert save(tmp_path, 1, state, {"first": False}, CONFIG) == path
    assert checkpoint.load(path, state) == (1, {"first": True})
    (path / "trained.safetensors").write_bytes(b"")
    save(tmp_path, 1, state, {"first": False}, CONFIG)
    assert checkpoint.load(path, state) == (1, {"first": False})


def test_the_adapter_of_a_checkpoint_is_the_average_that_ships(tmp_path):
    state = trained()
    assert state.ema is not None
    for _, value in state.policy.named_trainable():
        value.data.add_(1.0)
    path = save(tmp_path, 1, state, {}, CONFIG)
    adapter = load_file(path / "adapter" / "adapter_model.safetensors")
    assert adapter.keys() == state.ema.average.keys()
    assert all(adapter[name].equal(value) for name, value in state.ema.average.items())
    live = load_file(path / "trained.safetensors")
    assert not all(adapter[name].equal(value) for name, value in live.items())


def test_a_checkpoint_of_another_policy_is_refused(tmp_path):
    path = save(tmp_path, 1, trained(width=4), {}, CONFIG)
    with pytest.raises(ConfigError, match="holds other trained weights"):
        checkpoint.load(path, trained(width=8))


def test_a_checkpoint_without_an_average_is_refused_where_one_is_kept(tmp_path):
    path = save(tmp_path, 1, trained(ema=False), {}, CONFIG)
    with pytest.raises(ConfigError, match="lacks ema.safetensors"):
        checkpoint.load(path, trained())


def test_the_list_has_every_file_with_its_hash(tmp_path):
    path = save(tmp_path, 1, trained(), {"reward": {}}, CONFIG)
    listed = json.loads((path / "files.json").read_text())
    assert set(listed) == {
        "trained.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json", "config.yaml",
        "adapter/adapter_model.safetensors",
    }  # fmt: skip
    assert listed["config.yaml"] == hashlib.sha256(CONFIG.encode()).hexdigest()
