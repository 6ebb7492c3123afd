"""``examine`` says what is wrong with a reward, in a line that names it."""

import asyncio
import json
import re
import socket
from dataclasses import replace

import numpy as np
import pytest

from rlnsp import cli
from rlnsp.built_reward import BuiltReward, from_function
from rlnsp.declaration import Declaration, Fault, declared, declares
from rlnsp.manifest import write_clip, write_manifest
from rlnsp.settings import ConfigError
from rlnsp.testing.bench import Bench, make_bench
from rlnsp.testing.contract import examine
from rlnsp.testing.outage import no_servers
from rlnsp.types import Sample, Scene, rows_by_scene
from rlnsp.world import scenes

SCENES = [Scene(id=f"s{i}", context=f"context {i}") for i in range(6)]
FAULTS: tuple[Fault | None, ...] = (None, None, "shuffled", "static", "noisy")
LEVEL: dict[Fault | None, int] = {None: 200, "shuffled": 150, "static": 100, "noisy": 50}


def bench():
    """Groups of clips of one grey each: the brighter the truer."""
    samples = [
        Sample(scene=scene, frames=np.full((2, 4, 4, 3), LEVEL[fault] + 3 * i + j, np.uint8), fps=8.0)
        for i, scene in enumerate(SCENES)
        for j, fault in enumerate(FAULTS)
    ]
    return Bench(samples=samples, faults=list(FAULTS) * len(SCENES))


def brightness(samples):
    return [float(one.frames.mean()) / 255 for one in samples]


def found(call, on=None, declaration=None, deterministic=True):
    """claim -> (verdict, detail, value)"""
    built = BuiltReward(name="mine", call=from_function(call), declaration=declaration or declared(call))
    lines = examine(built, on or bench(), deterministic=deterministic)
    return {line.claim: (line.verdict, line.detail, line.value) for line in lines}


def test_a_good_reward_passes_every_line():
    declaration = Declaration(range=(0, 1), tells=("shuffled", "static", "noisy"))
    lines = found(brightness, declaration=declaration)
    assert {claim for claim, line in lines.items() if line[0] == "fail"} == set()
    passed = {claim for claim, line in lines.items() if line[0] == "pass"}
    assert passed == {
        "length", "finite", "range", "leaves clips alone", "deterministic", "batch size", "order",
        "true over shuffled", "true over static", "true over noisy", "spread in groups", "memory",
    }  # fmt: skip
    assert lines["server away"][:2] == ("note", "asks no server")


def within_the_batch(samples):
    values = brightness(samples)
    return [value - max(values) for value in values]


def by_place(samples):
    return [float(row) for row in range(len(samples))]


def keeps(samples, kept=[]):  # noqa: B006 - that is its fault
    kept.append(np.ones(2**19))
    return brightness(samples)


def away_and_back(samples):
    # Without an outage the address is refused as well: what differs is the answer.
    try:
        socket.create_connection(("127.0.0.1", 9), timeout=1)
    except ConnectionRefusedError as error:
        if "taken away" in str(error):
            return [-1.0 for _ in samples]
    return brightness(samples)


@pytest.mark.parametrize(
    ("call", "claim", "says"),
    [
        (lambda s: [0.5], "length", "one value a sample: 1 values for 30 samples"),
        (lambda s: [float("inf")] * len(s), "finite", "scene 's0': a score must be finite or None; got inf"),
        (lambda s: 1 / 0, "answers", "raised ZeroDivisionError"),
        (lambda s: list(np.random.default_rng().random(len(s))), "deterministic", "answers differently"),
        (within_the_batch, "batch size", "whether groups come alone or together"),
        (by_place, "order", "must follow their samples"),
        (keeps, "memory", "MiB kept a call"),
        (lambda s: [0.5] * len(s), "spread in groups", "0% of 6 groups have one"),
        (away_and_back, "server away", "gave -1, a score that nobody gave"),
    ],
)
def test_a_reward_with_one_fault_fails_that_line(call, claim, says):
    verdict, detail, _ = found(call)[claim]
    assert verdict == "fail"
    assert says in detail


def test_a_range_that_is_not_kept_fails_and_one_that_is_not_stated_is_noted():
    assert found(brightness, declaration=Declaration(range=(0, 0.5)))["range"][0] == "fail"
    assert found(brightness)["range"] == (
        "note",
        "0.2118 to 0.8471 here; states none: @declares(range=(least, greatest))",
        None,
    )


def test_the_auc_is_the_share_of_pairs_in_a_group_with_ties_half():
    # True clips score 1 and 0; shuffled 0, static 1, noisy 2: (1 > 0) and (0 = 0); (1 = 1) and (0 < 1).
    worth = (1.0, 0.0, 0.0, 1.0, 2.0)
    made = bench()
    place = {int(one.frames[0, 0, 0, 0]): worth[row % 5] for row, one in enumerate(made.samples)}
    lines = found(lambda samples: [place[int(one.frames[0, 0, 0, 0])] for one in samples], on=made)
    values = [lines[f"true over {fault}"][2] for fault in ("shuffled", "static", "noisy")]
    assert values == [0.75, 0.25, 0.0]


def test_what_a_reward_claims_to_tell_it_must_tell():
    dark = Declaration(tells=("static",))
    lines = found(lambda s: [-value for value in brightness(s)], declaration=dark)
    assert lines["true over static"][0] == "fail"
    assert lines["true over noisy"][0] == "note"


def test_a_server_that_is_away_may_be_answered_by_an_exception_or_by_none():
    def raises(samples):
        socket.create_connection(("127.0.0.1", 9), timeout=1)

    async def asks(samples):
        try:
            await asyncio.open_connection("127.0.0.1", 9)
        except ConnectionRefusedError as error:
            return [None] * len(samples) if "taken away" in str(error) else brightness(samples)

    assert found(raises)["answers"][0] == "fail"  # it never answered at all
    assert found(asks)["server away"][:2] == ("pass", "None")


def test_an_outage_breaks_open_connections_too_and_ends():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as one,
    ):
        with no_servers() as outage, pytest.raises(ConnectionResetError):
            one.send(b"x")
        assert outage.tried == 1
        assert one.send(b"x") == 1
        server.accept()[0].close()


def test_a_reward_that_draws_is_not_asked_to_agree_with_itself():
    def draws(samples):
        return list(np.random.default_rng().random(len(samples)))

    lines = found(draws, deterministic=False)
    assert lines["deterministic"][0] == "note"
    assert "order" not in lines


def test_a_bench_has_true_clips_and_one_of_each_fault_a_scene():
    made = make_bench(scenes("heldout", 4, seed=0))
    assert made.faults is not None
    for rows in rows_by_scene(made.samples):
        assert [made.faults[row] for row in rows] == [*FAULTS]
        true, _, shuffled, still, noisy = (made.samples[row].frames.astype(int) for row in rows)
        assert np.abs(np.diff(still, axis=0)).max() == 0
        assert np.array_equal(still[0], true[0])
        assert 20 < np.abs(noisy - true).mean() < 48
        assert not np.array_equal(shuffled, true)


def test_a_bench_wants_two_scenes_of_different_contexts():
    one, *_ = scenes("heldout", 2, seed=0)
    with pytest.raises(ConfigError, match="only 1 of 2 scenes have a true next scene"):
        make_bench([one, Scene(id="odd", context="Prices fell.")])
    with pytest.raises(ConfigError, match="every scene has the context"):
        make_bench([one, replace(one, id="again")])


MINE = """
from rlnsp.declaration import declares

@declares(range=(0, 1))
def bright(completions):
    return [float(clip.mean()) / 255 for clip in completions]

def flat(completions):
    return [0.5 for _ in completions]
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return str(tmp_path / "mine.py")


def test_the_command_prints_a_verdict_a_line_and_its_exit_code_is_the_verdict(mine, capsys):
    assert cli.main(["reward", "test", f"{mine}:bright", "--scenes", "3"]) == 0
    said = capsys.readouterr().out
    assert f"{mine}:bright, on 15 clips" in said
    assert re.search(r"^pass  range +[\d.]+ to [\d.]+ here; states 0 to 1$", said, re.MULTILINE)
    assert said.endswith("can be trained on\n")
    assert cli.main(["reward", "test", f"{mine}:flat", "--scenes", "3", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["passed"] is False
    assert [one["claim"] for one in told["findings"] if one["verdict"] == "fail"] == ["spread in groups"]


def test_the_command_takes_the_users_clips(mine, tmp_path, capsys):
    rows = []
    for number in range(3):
        clip = np.full((3, 16, 16, 3), 40 + 60 * number, np.uint8)
        write_clip(tmp_path / f"{number}.mp4", clip, 8.0)
        rows.append({"id": f"s{number}", "context": f"scene {number}", "video": f"{number}.mp4"})
    write_manifest(tmp_path / "manifest.jsonl", rows)
    argv = ["reward", "test", f"{mine}:bright", "--manifest", str(tmp_path / "manifest.jsonl"), "--json"]
    assert cli.main(argv) == 0
    assert json.loads(capsys.readouterr().out)["clips"] == 12  # one true clip a scene


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["test"], "names no reward"),
        (["test", "nsp_rewrad"], "did you mean 'nsp_reward'?"),
        (["test", "nsp_reward", "rewards.nsp_reward.config.mdoe=soft"], "did you mean 'mode'?"),
        (["test", "nsp_reward", "--manifest", "absent.jsonl"], "absent.jsonl: no such manifest"),
        (["test", "nsp_reward", "--scenes", "1"], "--scenes must be at least 2"),
    ],
)
def test_bad_usage_of_the_command_is_one_line_and_exit_code_two(argv, says, capsys):
    assert cli.main(["reward", *argv]) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert said.out == ""


@declares(range=(-1, 0), needs=("latents",))
def calm(samples):
    return [-float(one.latents.square().mean()) / 10 for one in samples]


def test_a_reward_of_latents_is_tried_on_drawn_ones_which_are_nobodys_clip():
    lines = found(calm, on=make_bench(scenes("heldout", 3, seed=0)))
    assert lines["range"][0] == lines["order"][0] == "pass"
    assert not [claim for claim in lines if claim.startswith("true over")]
