"""Runs that are cut down and go on: whether they end in the same bits as runs that were not.

python -m benchmarks.survival                  # every algorithm, every file operation of a checkpoint's write
python -m benchmarks.survival --write          # also into docs/runs.md
python -m benchmarks.survival --every 9        # each ninth operation

Six iterations of the toy policy straight, against three, an end by SIGKILL or a full disk, and the rest.
Each run is a process of its own, forked from this one, which never trains.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.file_faults import FileFaults, full_disk, kill
from benchmarks.pages import fill
from rlnsp import trainer
from rlnsp.manifest import write_manifest
from rlnsp.optimisation import make_optimizer
from rlnsp.settings import (
    DataConfig,
    EvaluationConfig,
    RewardSlot,
    RunConfig,
    SamplerConfig,
    Slot,
    TrainerConfig,
    WindowConfig,
)
from rlnsp.testing import ToyPolicy
from rlnsp.trainer import Run, train

ALGORITHMS = ("ddpo", "grpo", "grpo_guard", "flow_dppo", "nft", "awm")
PAGE = Path(__file__).parents[1] / "docs" / "runs.md"
MARKS = "<!-- survival -->", "<!-- end -->"
HALF, WHOLE = 3, 6
REACHED_END = 7
REWARD = """
def brightness(completions):
    return [float(clip.mean()) / 255 for clip in completions]
"""
FAULTS = {"killed": kill, "disk full": full_disk}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One algorithm: of so many ends of each kind, how many led to the same bits."""

    algorithm: str
    tried: dict[str, int]
    same: dict[str, int]

    @property
    def sound(self) -> bool:
        """All of them did."""
        return self.tried == self.same


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if one run went another way."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.survival", description="Survival, measured.")
    parser.add_argument("--algorithms", nargs="+", default=ALGORITHMS, choices=ALGORITHMS)
    parser.add_argument("--every", type=int, default=1, help="take each n-th file operation")
    parser.add_argument("--write", action="store_true", help="put the table into docs/runs.md")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    make_optimizer(ToyPolicy(ToyPolicy.Config()), TrainerConfig())  # imports a lot, which each child would
    rows = []
    for algorithm in args.algorithms:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(algorithm, Path(folder), args.every))
        print(row_of(rows[-1]), flush=True)
    if args.write:
        fill(PAGE, table(rows, args.every), MARKS)
    return 0 if all(row.sound for row in rows) else 1


def config(folder: Path, algorithm: str) -> RunConfig:
    """Everything that a checkpoint holds is in use: averages, statistics, a window that moves."""
    (folder / "reward.py").write_text(REWARD)
    train_on, heldout = folder / "train.jsonl", folder / "heldout.jsonl"
    for path in (train_on, heldout):
        write_manifest(path, [{"id": f"{n}", "context": f"Scene {n}."} for n in range(8)])
    return RunConfig(
        data=DataConfig(train=str(train_on), heldout=str(heldout)),
        policy=Slot(use="rlnsp.testing:ToyPolicy"),
        rewards={"brightness": RewardSlot(use=f"{folder / 'reward.py'}:brightness")},
        algorithm=Slot(use=algorithm),
        sampler=SamplerConfig(
            num_steps=5, window=WindowConfig(kind="sliding", start=0, size=2, end=4, shift_every=2)
        ),
        trainer=TrainerConfig(
            num_iterations=WHOLE,
            scenes_per_iteration=2,
            group_size=3,
            learning_rate=1e-2,
            updates_per_rollout=2,
            ema_decay=0.5,
            save_every=1,
            keep_last=1,
            trackers=[],
            report=False,
        ),
        evaluation=EvaluationConfig(num_scenes=4, every=2, bootstrap=10, keep_clips=1),
    )


def measure(algorithm: str, folder: Path, every: int = 1) -> Row:
    """Every end of one algorithm's run, each resumed and compared with the straight run."""
    settings = config(folder, algorithm)
    straight = folder / "straight"
    assert in_child(lambda: train(settings, straight / "run")) == 0
    wanted = left(straight / "run")
    ends = {"in an iteration": [_cut_in_an_iteration(settings, folder)]}
    for name, fault in FAULTS.items():
        ends[f"{name} in a write"] = _cut_in_a_write(settings, folder / name, fault, every)
    tried = {name: len(places) for name, places in ends.items()}
    same = {name: sum(_goes_on(settings, place, wanted) for place in places) for name, places in ends.items()}
    return Row(algorithm=algorithm, tried=tried, same=same)


def left(run: Path) -> dict[str, str]:
    """What a run ends with: the hash of each file of weights and optimiser, and what was measured."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    numbers = [{name: value for name, value in line.items() if "seconds" not in name} for line in lines]
    return digests(run, WHOLE) | {"metrics": json.dumps(numbers)}


def digests(run: Path, iteration: int) -> dict[str, str]:
    """The hash of every file with weights or an optimiser's state that a run has after ``iteration``."""
    folders = {"": run / "adapter", "checkpoint/": run / "checkpoints" / f"step-{iteration}"}
    return {
        f"{place}{path.relative_to(folder)}": hashlib.sha256(path.read_bytes()).hexdigest()
        for place, folder in folders.items()
        for path in sorted(folder.rglob("*.safetensors"))
    }


def in_child(act: Callable[[], int]) -> int:
    """The exit code of a process that does ``act``; of one that was killed, the signal, negative."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            code = act()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _cut_in_an_iteration(settings: RunConfig, folder: Path) -> Path:
    """Killed while the clips of the fifth iteration are judged."""
    run = folder / "in an iteration" / "run"

    def act() -> int:
        scores = trainer.Judging.scores

        def killed(judging: trainer.Judging, most: float) -> object:
            if (run / "metrics.jsonl").read_text().count('"reward"') == HALF + 1:
                kill()
            return scores(judging, most)

        trainer.Judging.scores = killed  # pyright: ignore[reportAttributeAccessIssue]
        return train(settings, run)

    assert in_child(act) < 0
    return run


def _cut_in_a_write(settings: RunConfig, folder: Path, fault: Callable[[], None], every: int) -> list[Path]:
    """Cut at one file operation after another of the save after three iterations, each in a copy."""
    first = folder / "first"
    first.mkdir(parents=True)

    def act() -> int:
        os.chdir(first)
        save = Run._save

        def cut(run: Run) -> None:
            if run.finished == HALF:
                at = 0
                while in_child(lambda at=at: cut_at(run, at)) != REACHED_END:
                    at += every
                os._exit(0)
            save(run)

        def cut_at(run: Run, at: int) -> int:
            shutil.copytree(first / "run", folder / str(at) / "run")
            os.chdir(folder / str(at))
            faults = FileFaults(at, fault)
            try:
                with faults.armed():
                    save(run)
            except OSError:
                return 1
            if faults.count <= at:
                shutil.rmtree(folder / str(at))
                return REACHED_END
            return 0  # an operation that may fail

        Run._save = cut  # pyright: ignore[reportAttributeAccessIssue]
        return train(settings, Path("run"))

    assert in_child(act) == 0
    return sorted(path / "run" for path in folder.iterdir() if path.name.isdigit())


def _goes_on(settings: RunConfig, run: Path, wanted: dict[str, str]) -> bool:
    return in_child(lambda: train(settings, run, resume=True)) == 0 and left(run) == wanted


def row_of(row: Row) -> str:
    """Markdown."""
    shares = (f"{row.same[name]} of {row.tried[name]}" for name in row.tried)
    return f"| {row.algorithm} | {' | '.join(shares)} |"


def table(rows: Sequence[Row], every: int) -> str:
    """Markdown, with a head, and which operations were taken."""
    names = list(rows[0].tried)
    head = [f"| algorithm | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    taken = "Every operation was taken." if every == 1 else f"One operation in {every} was taken."
    return "\n".join([*head, *map(row_of, rows), "", taken])


if __name__ == "__main__":
    raise SystemExit(main())
