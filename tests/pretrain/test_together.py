"""``rlnsp sft`` in two real processes, on a tiny policy, pictures and videos, and files that are neither."""

import gc
import json
import os
import re
import signal
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.two_processes import DEEPSPEED, FSDP2, ZERO2, ZERO3, launch
from policies.unified.model import UnifiedModel
from pretrain import diffusion, precompute
from pretrain.diffusion import FlowLoss
from pretrain.zero_shards import ZeroModel
from rlnsp import zero
from rlnsp.cli import main
from tests.policies.tiny import make_policy_folder
from tests.videos import BLUE, GREEN, RED, encode, moving, truncated

SETTINGS = """
data: {clips: stream, shapes: [[32, 64], [64, 32]], workers: 1}
sft:
  drop: 0.2
  text: caption
  micro_batch_size: 1
  loop: {steps: 4, batch_size: 3, learning_rate: 1e-3, warmup: 0, ema_decay: 0.5,
    evaluate_every: 2, save_every: 3}
threads: 1
device: cpu
"""
AS_ZERO_2 = FSDP2 | {"FSDP_RESHARD_AFTER_FORWARD": "false"}
"""What accelerate launch says for configs/accelerate/fsdp2_zero2.yaml."""
FAULT_AT = 5
"""The loss in which the second process comes to its end: of the third step, after an evaluation of two."""


@pytest.fixture(autouse=True)
def _denormals_as_they_were() -> Iterator[None]:
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, settings, and a policy to start from."""
    folder = tmp_path_factory.mktemp("given")
    data = folder / "data"
    encode(data / "wide.mp4", moving(RED, 30, 72, 128), fps=30.0)
    encode(data / "tall.mp4", moving(BLUE, 20, 128, 72), fps=25.0)
    encode(data / "again.mp4", moving(GREEN, 20, 71, 133), fps=24.0)
    truncated(data / "cut.mp4", moving(RED, 30))
    for name, colour, size in (("one", RED, (40, 70)), ("two", BLUE, (64, 64)), ("three", GREEN, (33, 90))):
        Image.fromarray(moving(colour, 1, *size)[0]).save(data / f"{name}.png")
    (data / "none.png").write_bytes(b"no picture")
    Image.fromarray(moving(RED, 1)[0]).save(data / "kept.webp")
    encode(data / "kept-too.mp4", moving(GREEN, 20), fps=16.0)
    for path in sorted(data.iterdir()):
        split = "heldout" if path.stem.startswith("kept") else "train"
        said = {"caption": f"It is {path.stem}.", "split": split}
        (data / f"{path.stem}.json").write_text(json.dumps(said))
    (folder / "sft.yaml").write_text(SETTINGS)
    make_policy_folder(folder / "tiny")
    return folder


def words(given: Path, output: Path, *more: str) -> list[str]:
    settings = ["--config", str(given / "sft.yaml"), "--policy", str(given / "tiny")]
    return ["sft", *settings, "--output", str(output), f"data.manifest={given / 'data'}", *more]


def work(argv: list[str], fault: str) -> int:
    """The command, in a process that may come to its end on the way."""
    precompute.ROWS_A_FILE = 2
    if fault and os.environ["RANK"] == "1":
        act: dict[str, Callable[[], Any]] = {
            "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
            "stopped": lambda: os.kill(os.getpid(), signal.SIGTERM),
        }
        calls, flow = 0, FlowLoss.__call__

        def counted(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == FAULT_AT:
                act[fault]()
            return flow(*arguments)

        pytest.MonkeyPatch().setattr(FlowLoss, "__call__", counted)
    zero.WHOLE_BELOW = 0  # or all weights of so small a model
    models, join = [], ZeroModel.join

    def joined(spread: ZeroModel) -> None:
        """Nothing of DeepSpeed's is left, in the process that has all weights again and in the other."""
        models.append(weakref.ref(spread._model[0]))
        within = spread.engine.optimizer
        assert within.reduce_bucket_size * 4 < 6e8  # bytes
        stepped = [weakref.ref(value) for value in within.optimizer.state]
        assert stepped
        del within
        join(spread)
        assert not any(value() is not None for value in stepped)

    pytest.MonkeyPatch().setattr(ZeroModel, "join", joined)
    code = main(argv)
    gc.collect()
    assert not any(model() for model in models)
    return code


def both(
    argv: list[str], log: Path, fault: str = "", told: Mapping[str, str] | None = None
) -> tuple[list[int | None], list[str]]:
    """Exit codes and what was said."""
    processes = launch(work, (argv, fault), log, 2, told, preload=["pretrain.stages", DEEPSPEED])
    for process in processes:
        process.join(120)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes, [log.with_suffix(f".{rank}").read_text() for rank in (0, 1)]


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def weights(policy: Path) -> dict[str, Tensor]:
    found = {}
    for part in ("transformer", "connector"):
        (path,) = (policy / part).glob("*.safetensors")
        found |= {f"{part}.{name}": value for name, value in load_file(path).items()}
    return found


def metrics(output: Path) -> list[dict[str, float]]:
    lines = (output / "sft" / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in lines]


def assert_same(one: Path, other: Path, start: Path, atol: float = 2e-5) -> None:
    """Two outputs' weights agree to rounding, and are not those of ``start``.

    Gradients of an attention's keys are next to nothing here, and AdamW divides them by their own size: how
    they are rounded shows.
    """
    found, expected, before = weights(other / "policy"), weights(one / "policy"), weights(start)
    assert max((value - before[name]).abs().max().item() for name, value in expected.items()) > 1e-3
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol)


def held_here(said: str) -> float:
    """The share of the DiT, or of what is trained, that the first of two processes said that it holds."""
    (found,) = re.findall("2 processes hold .* together.*: ([0-9,]+) of ([0-9,]+) here", said)
    here, whole = (int(number.replace(",", "")) for number in found)
    return here / whole


def described(policy: Path) -> dict[str, dict[str, Any]]:
    """Its settings, but for where parts were read."""
    contents = {name: json.loads(content) for name, content in files(policy).items() if ".json" in name}
    return {name: content | {"_name_or_path": ""} for name, content in contents.items()}


@pytest.fixture(scope="module")
def alone(given: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of it, streaming."""
    output = tmp_path_factory.mktemp("alone") / "run"
    assert main(words(given, output)) == 0
    return output


def test_two_processes_precompute_and_train_as_one_does(given: Path, alone: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precompute, "ROWS_A_FILE", 2)
        assert main(words(given, tmp_path / "one", "--precompute")) == 0
    codes, (said, other) = both(words(given, tmp_path / "two", "--precompute"), tmp_path / "log")
    assert codes == [0, 0], (said, other)
    assert other == ""
    assert said.count("policy: ") == 1
    shards = [files(tmp_path / name / "latents") for name in ("one", "two")]
    assert len(shards[0]) > 6
    assert shards[0] == shards[1]
    runs = alone, tmp_path / "one", tmp_path / "two"
    lists = [(run / "sft" / "skipped.jsonl").read_text().splitlines() for run in runs]
    assert [sorted(json.loads(line)["id"] for line in lines) for lines in lists] == [["cut", "none"]] * 3
    assert metrics(runs[0]) == metrics(runs[1])
    assert metrics(runs[2]) == [pytest.approx(row, rel=1e-4) for row in metrics(runs[1])]
    assert_same(runs[1], runs[2], given / "tiny")


@pytest.mark.parametrize("told", [AS_ZERO_2, ZERO2, ZERO3], ids=["FSDP2", "ZeRO-2", "ZeRO-3"])
def test_two_that_hold_the_weights_together_train_as_one_does(
    given: Path, alone: Path, tmp_path: Path, told: dict[str, str]
) -> None:
    codes, (said, other) = both(words(given, tmp_path / "two"), tmp_path / "log", told=told)
    assert codes == [0, 0], (said, other)
    assert other == ""
    assert held_here(said) == pytest.approx(0.5, abs=0.01)
    assert metrics(tmp_path / "two") == [pytest.approx(row, rel=1e-4) for row in metrics(alone)]
    assert_same(alone, tmp_path / "two", given / "tiny", atol=2e-5 if told == AS_ZERO_2 else 1e-4)
    assert described(tmp_path / "two" / "policy") == described(alone / "policy")


@pytest.mark.parametrize("told", [FSDP2, ZERO3], ids=["FSDP2", "ZeRO-3"])
def test_two_that_hold_a_frozen_dit_together_train_its_connector_as_one_does(
    given: Path, tmp_path: Path, told: dict[str, str]
) -> None:
    more = "sft.train=[queries,connector]", "sft.loop.steps=2"
    assert main(words(given, tmp_path / "one", *more)) == 0
    codes, (said, other) = both(words(given, tmp_path / "two", *more), tmp_path / "log", told=told)
    assert codes == [0, 0], (said, other)
    assert held_here(said) == pytest.approx(0.5, abs=0.01)
    assert metrics(tmp_path / "two") == [pytest.approx(row, rel=1e-4) for row in metrics(tmp_path / "one")]
    assert_same(tmp_path / "one", tmp_path / "two", given / "tiny")


@pytest.mark.parametrize(
    ("fault", "told", "codes", "says"),
    [
        ("killed", {}, [1, -signal.SIGKILL], "another process of the run has ended"),
        ("stopped", {}, [143, 143], "interrupted and saved; go on by: rlnsp sft"),
        ("stopped", FSDP2, [143, 143], "interrupted and saved; go on by: rlnsp sft"),
        ("stopped", ZERO2, [143, 143], "interrupted and saved; go on by: rlnsp sft"),
    ],
)
def test_what_ends_one_process_ends_both_and_one_goes_on(
    given: Path, alone: Path, tmp_path: Path, fault: str, told: dict[str, str], codes: list[int], says: str
) -> None:
    found, (said, other) = both(words(given, tmp_path / "run"), tmp_path / "log", fault, told)
    assert found == codes, (said, other)
    assert says in said
    assert "Traceback" not in said + other
    assert (tmp_path / "run" / "sft" / "checkpoint.safetensors").is_file()
    assert main(words(given, tmp_path / "run")) == 0
    assert metrics(tmp_path / "run") == [pytest.approx(row, rel=1e-4) for row in metrics(alone)]
    assert_same(alone, tmp_path / "run", given / "tiny")


@pytest.mark.parametrize("told", [FSDP2, ZERO3], ids=["FSDP2", "ZeRO-3"])
def test_a_kill_ends_two_that_hold_the_weights_together_and_one_goes_on_from_their_last_checkpoint(
    given: Path, alone: Path, tmp_path: Path, told: dict[str, str]
) -> None:
    more = "sft.loop.save_every=2", "sft.gradient_checkpointing=true"
    argv = words(given, tmp_path / "run", *more)
    codes, (said, other) = both(argv, tmp_path / "log", "killed", told)
    assert codes == [1, -signal.SIGKILL], (said, other)
    assert "another process of the run has ended" in said
    assert "Traceback" not in said
    assert (tmp_path / "run" / "sft" / "checkpoint.safetensors").is_file()
    assert main(argv) == 0
    assert metrics(tmp_path / "run") == [pytest.approx(row, rel=1e-4) for row in metrics(alone)]
    assert_same(alone, tmp_path / "run", given / "tiny", atol=2e-5 if told == FSDP2 else 1e-4)


@pytest.mark.parametrize(
    ("more", "idle"),
    [
        ([], []),
        (["--precompute", "sft.train=[connector,transformer]"], ["comprehension", "vae"]),
        (["--precompute"], ["vae"]),
    ],
)
def test_parts_that_a_stage_calls_no_more_give_up_their_place(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], idle: list[str]
) -> None:
    said: list[str] = []
    place, used, fit = UnifiedModel.place, UnifiedModel._used, diffusion.fit

    def placed(model: UnifiedModel, device: Any, waiting: Any = ()) -> None:
        said.append(f"wait: {sorted(waiting)}")
        place(model, device, waiting)

    def called(model: UnifiedModel, name: str) -> Any:
        said.append(name)
        return used(model, name)

    def fitted(*arguments: Any) -> None:
        said.append("fit")
        fit(*arguments)

    monkeypatch.setattr(UnifiedModel, "place", placed)
    monkeypatch.setattr(UnifiedModel, "_used", called)
    monkeypatch.setattr(diffusion, "fit", fitted)
    assert main(words(given, tmp_path / "run", "sft.loop.steps=2", *more)) == 0
    assert [line for line in said if line.startswith("wait")] == ["wait: []", f"wait: {idle}"]
    calls = [said[said.index("fit") :].count(part) for part in ("comprehension", "vae")]
    # What Qwen says to nothing is kept when it was asked once.
    assert [count > 1 for count in calls] == [part not in idle for part in ("comprehension", "vae")]
