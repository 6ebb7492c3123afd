"""Real processes that exchange over gloo, each with the toy policy."""

import signal
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.two_processes import FSDP2, launch
from rlnsp import checkpoint, evaluations
from rlnsp.distributed import Ranks, join
from rlnsp.settings import ConfigError, EvaluationConfig, RewardSlot, Slot
from rlnsp.testing import ToyPolicy
from rlnsp.trainer import train
from tests.toy_runs import metrics_of, numbers, summary_of, toy_config

FAULTS = """
import os, signal, time, torch
from rlnsp.testing import ToyPolicy
from rlnsp.trainer import train
from rlnsp.types import Unscored

calls = 0

def here():
    return os.environ.get("RANK") == "1"

def bright(samples):
    return [float(one.frames.mean()) / 255 for one in samples]

def dim(samples):
    # Of some scenes no sample has a score.
    dark = [sum(one.scene.context.encode()) % 4 == 0 for one in samples]
    return [Unscored("too dark") if no else bright([one])[0] for one, no in zip(samples, dark)]

def often_flat(samples):
    # Of two scenes an iteration, one for each process, often only one has anything to teach.
    return [bright([one])[0] if sum(one.scene.context.encode()) % 3 else 0.5 for one in samples]

def later(samples, act, where=here):
    global calls
    calls += 1
    if where() and calls == 5:  # one is of the evaluation before the first iteration
        act()
    return bright(samples)

def kills(samples):
    return later(samples, lambda: os.kill(os.getpid(), signal.SIGKILL))

def stops(samples):
    return later(samples, lambda: os.kill(os.getpid(), signal.SIGTERM))

def stops_all(samples):
    return later(samples, lambda: os.kill(os.getpid(), signal.SIGTERM), lambda: "RANK" in os.environ)

def hangs(samples):
    return later(samples, lambda: time.sleep(10))

def fails(samples):
    def act():
        raise OSError("judge is away")
    return later(samples, act)

def counted(samples):
    with open(f"{__file__}.{os.environ.get('RANK', 'alone')}", "a") as file:
        file.write("x" * len(samples))
    return bright(samples)

def fails_in_first(samples):
    def act():
        raise OSError("judge is away")
    return later(samples, act, lambda: os.environ.get("RANK") == "0")

class Splits(ToyPolicy):
    # As if each process had a share of the tokens: each gets all of the velocity, and a part of its gradient.
    def split_tokens(self, count):
        self.team = count

    def velocity(self, *args, **kwargs):
        v = super().velocity(*args, **kwargs)
        return v.detach() + (v - v.detach()) / getattr(self, "team", 1)

class Drifts(ToyPolicy):
    def sigmas(self, num_steps):
        if here():
            self.network.outer.bias.data.add_(1e-7)
        return super().sigmas(num_steps)
"""


@pytest.fixture
def faulty(tmp_path):
    """A config whose reward is one of those above."""
    return partial(faulty_config, tmp_path)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The weights that a run without faults comes to, in one process."""
    folder = tmp_path_factory.mktemp("straight")
    assert train(faulty_config(folder, "bright"), folder / "run") == 0
    return weights(folder / "run")


def faulty_config(folder, reward, policy=None, **settings):
    (folder / "faults.py").write_text(FAULTS)
    evaluation = EvaluationConfig(num_scenes=3, bootstrap=10, keep_clips=2)
    own = {"scenes_per_iteration": 3, "group_size": 3, "num_iterations": 6, "save_every": 0, "trackers": []}
    config = toy_config(folder, evaluation=evaluation, **{**own, **settings})
    config = replace(config, rewards={"mine": RewardSlot(use=f"{folder / 'faults.py'}:{reward}")})
    return replace(config, policy=Slot(use=f"{folder / 'faults.py'}:{policy}")) if policy else config


def both(config, run, resume=False, timeout=60, count=2):
    """Train in two processes; their exit codes, and what each said."""
    processes = launch(train, (config, run, resume), run.with_suffix(".log"), count)
    for process in processes:
        process.join(timeout)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()  # one that hangs
    return codes, [run.with_suffix(f".log.{rank}").read_text() for rank in range(count)]


def weights(run, name="trained"):
    return load_file(checkpoint.checkpoints(run / "checkpoints")[-1] / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"WORLD_SIZE": "3"}, "context_parallel is 2, but 3 processes are no multiple of it"),
        ({"WORLD_SIZE": "2", **FSDP2}, "context_parallel is 2 and accelerate's config spreads"),
    ],
)
def test_teams_that_cannot_be_made_up_are_refused(said, message, monkeypatch):
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        join(1.0, team_size=2)


def test_a_policy_whose_tokens_cannot_be_shared_is_refused():
    with pytest.raises(ConfigError, match=r"context_parallel is 2, but .*ToyPolicy has no split_tokens\(\)"):
        Ranks(count=2, team_size=2).shard(ToyPolicy(ToyPolicy.Config()))
    with pytest.raises(ConfigError, match="scenes_per_iteration is 1, but of 2 teams of 2 each"):
        Ranks(count=4, team_size=2).check(1, 4)


def test_a_team_has_one_share():
    shares = [Ranks(rank=rank, count=4, team_size=2).share(5) for rank in range(4)]
    assert shares == [[0, 2, 4], [0, 2, 4], [1, 3], [1, 3]]
    assert [Ranks(rank=rank, count=4, team_size=2).first for rank in range(4)] == [True, False] * 2


@pytest.mark.parametrize(("algorithm", "scenes", "reward"), [("ddpo", 5, "dim"), ("grpo", 2, "often_flat")])
def test_two_processes_train_as_one_does(algorithm, scenes, reward, faulty, tmp_path, capsys):
    """Five scenes they cannot share evenly; where a process's only scene is flat, it has no transition."""
    several = {"updates_per_rollout": 2, "minibatches": 2, "ema_decay": 0.5, "max_drop_share": 0.9}
    several |= {"micro_batch_size": 1}  # so that each model call has one shape, for which kernels round alike
    config = faulty(reward, algorithm=algorithm, scenes_per_iteration=scenes, **several)
    codes, (said, other) = both(config, tmp_path / "two")
    assert codes == [0, 0]
    assert other == ""
    assert train(config, tmp_path / "one") == 0
    assert capsys.readouterr().out.count("too dark") == said.count("too dark") > 0 or reward != "dim"
    for name in ("trained", "ema"):
        one, two = weights(tmp_path / "one", name), weights(tmp_path / "two", name)
        for key, value in one.items():
            assert torch.equal(two[key], value), key
    alone, shared = (numbers(metrics_of(tmp_path / run)) for run in ("one", "two"))
    assert [known(line) for line in shared] == [pytest.approx(known(line), rel=1e-3) for line in alone]
    flat = {line.get("zero_variance_groups") for line in alone}
    assert reward != "often_flat" or {0.0, 0.5} <= flat
    kept = [evaluations.read(tmp_path / run)[-1] for run in ("one", "two")]
    assert kept[0].clips == kept[1].clips
    assert kept[0].evaluation.scene_ids == kept[1].evaluation.scene_ids


def test_processes_that_share_a_clips_tokens_train_as_one_does_and_judge_once(faulty, tmp_path):
    """Two teams of two, and three scenes."""
    settings = {"policy": "Splits", "micro_batch_size": 1, "num_iterations": 2}
    codes, (_, *others) = both(
        faulty("counted", context_parallel=2, **settings), tmp_path / "four", timeout=120, count=4
    )
    assert codes == [0] * 4
    assert others == [""] * 3
    assert train(faulty("counted", **settings), tmp_path / "one") == 0
    for key, value in weights(tmp_path / "one").items():
        assert torch.equal(weights(tmp_path / "four")[key], value), key
    alone, shared = (numbers(metrics_of(tmp_path / run)) for run in ("one", "four"))
    assert [known(line) for line in shared] == [pytest.approx(known(line), rel=1e-6) for line in alone]
    kept = [evaluations.read(tmp_path / run)[-1] for run in ("one", "four")]
    assert kept[0].clips == kept[1].clips
    judged = {path.suffix[1:]: path.stat().st_size for path in tmp_path.glob("faults.py.*")}
    assert judged.keys() == {"alone", "0", "2"}
    assert judged["0"] + judged["2"] == judged["alone"]


def test_a_team_ends_with_the_one_that_judges(faulty, tmp_path):
    config = faulty("fails_in_first", policy="Splits", context_parallel=2)
    codes, (main, other) = both(config, tmp_path / "run")
    assert codes == [1, 1]
    assert "reward 'mine' failed on" in main
    assert "another process of the run has ended" in other
    assert summary_of(tmp_path / "run")["steps"] == 3


def known(line):
    return {name: value for name, value in line.items() if value is not None}


@pytest.mark.parametrize(
    ("reward", "codes", "said"),
    [
        ("kills", [1, -signal.SIGKILL], "another process of the run has ended"),
        ("fails", [1, 1], "rank 1: reward 'mine' failed on scene"),
        ("stops", [143, 143], ""),
        ("stops_all", [143, 143], ""),
        ("hangs", [1, 1], "did not answer for 8 s"),
    ],
)
def test_what_ends_one_process_ends_the_run_which_is_saved(reward, codes, said, faulty, straight, tmp_path):
    run = tmp_path / "run"
    patience = {"rank_timeout_s": 8.0} if reward == "hangs" else {}
    found, (main, other) = both(faulty(reward, **patience), run)
    assert found == codes
    assert said in main
    assert f"go on by: rlnsp train --resume {run}" in main.replace("\n", " ")
    assert "Traceback" not in main + other
    summary = summary_of(run)
    assert (summary["status"], summary["steps"]) == ("interrupted" if codes[0] > 128 else "failed", 3)
    assert train(faulty(reward), run, resume=True) == 0  # in one process: there is nothing to kill
    for key, value in straight.items():
        torch.testing.assert_close(weights(run)[key], value, rtol=0, atol=1e-6)


def test_weights_that_have_drifted_apart_are_noticed(faulty, tmp_path):
    codes, (main, _) = both(faulty("bright", policy="Drifts"), tmp_path / "run")
    assert codes == [1, 1]
    assert "after iteration 1 the trained weights of rank 1 are not those of rank 0" in main


def test_more_processes_than_scenes_are_refused_once(faulty, tmp_path):
    codes, (main, other) = both(faulty("bright", scenes_per_iteration=1), tmp_path / "run")
    assert codes == [2, 2]
    assert "trainer.scenes_per_iteration is 1, but of 2 processes each samples whole groups" in main
    assert other == ""
    assert not (tmp_path / "run").exists()
