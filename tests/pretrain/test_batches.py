"""Batches of clips of several shapes, some of them unusable: order, buckets, listing, resuming."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.batches import ClipBatches, first_examples
from pretrain.examples import Batch, Example
from pretrain.loop import batch_indices
from pretrain.skipped import Skipped
from rlnsp.config import ConfigError
from rlnsp.dataset.video import UnusableVideo
from rlnsp.distributed import Ranks
from rlnsp.types import Scene
from tests.pretrain.together import together


class Numbered:
    """Row n is the number n; rows in ``broken`` cannot be read, rows in ``tall`` have another shape."""

    def __init__(self, n: int, broken: tuple[int, ...] = (), tall: tuple[int, ...] = (), slow: bool = False):
        self.n, self.broken, self.tall, self.slow = n, broken, tall, slow

    def __len__(self) -> int:
        return self.n

    def scene(self, row: int) -> Scene:
        return Scene(id=str(row), context="")

    def load(self, row: int) -> int:
        if self.slow:
            time.sleep(random.random() / 200)  # threads finish in another order than they began
        if row in self.broken:
            raise UnusableVideo("broken", f"{row} is")
        return row

    def example(self, row: int, loaded: Any) -> Example:
        assert loaded == row
        shape = (5, 96, 64) if row in self.tall else (5, 64, 96)
        return Example(scene=self.scene(row), shape=shape, latents=torch.tensor([[float(row)]]))


def batches(source: Numbered, folder: Path, size: int = 4, seed: int = 3, workers: int = 0) -> ClipBatches:
    return ClipBatches(source, size, seed, Skipped(folder / "skipped.jsonl"), workers)


def rows(made: ClipBatches, steps: int) -> list[list[int]]:
    return [numbers(made.next(step)) for step in range(steps)]


def numbers(batch: Batch) -> list[int]:
    return [] if batch.latents is None else batch.latents.flatten().int().tolist()


def test_data_without_a_fault_comes_in_the_order_of_its_indices(tmp_path: Path) -> None:
    found = rows(batches(Numbered(10), tmp_path), 7)
    assert found == [batch_indices(10, 4, 3, step).tolist() for step in range(7)]
    assert not (tmp_path / "skipped.jsonl").exists()


def test_what_cannot_be_used_is_passed_over_and_listed_once(tmp_path: Path) -> None:
    broken = (2, 5, 9)
    found = [row for batch in rows(batches(Numbered(10, broken), tmp_path), 14) for row in batch]
    order = [row for step in range(20) for row in batch_indices(10, 4, 3, step).tolist()]
    assert found == [row for row in order if row not in broken][: len(found)]
    lines = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert sorted(line["id"] for line in lines) == ["2", "5", "9"]
    assert lines[0]["kind"] == "broken"
    assert lines[0]["why"] == f"{lines[0]['id']} is"
    # Another process finds the list, and adds nothing to it.
    rows(batches(Numbered(10, broken), tmp_path), 14)
    assert len((tmp_path / "skipped.jsonl").read_text().splitlines()) == 3


def test_a_batch_has_one_shape_and_no_clip_is_lost(tmp_path: Path) -> None:
    tall = (0, 3, 4)
    made = batches(Numbered(12, tall=tall), tmp_path)
    found = [made.next(step) for step in range(15)]
    for batch in found:
        assert {row in tall for row in numbers(batch)} == {batch.shape == (5, 96, 64)}
        assert len(batch.scenes) == batch.total == 4
    counts = torch.bincount(torch.tensor([row for batch in found for row in numbers(batch)]), minlength=12)
    assert counts.min() >= 4  # 15 batches of 4 are 5 epochs of 12
    assert counts.max() <= 6


@pytest.mark.parametrize("workers", [0, 3])
def test_killed_and_resumed_gives_the_same_batches(tmp_path: Path, workers: int) -> None:
    source = Numbered(11, broken=(1, 7), tall=(0, 2, 8), slow=workers > 0)
    straight = rows(batches(source, tmp_path), 20)
    for cut in (0, 1, 6, 13):
        first = batches(source, tmp_path, workers=workers)
        before = rows(first, cut)
        state = json.loads(json.dumps(first.state()))
        first.close()
        again = batches(source, tmp_path, workers=workers)
        again.restore(state)
        assert before + rows(again, 20 - cut) == straight
        again.close()


def test_data_that_changed_its_length_is_refused(tmp_path: Path) -> None:
    made = batches(Numbered(5), tmp_path)
    made.next(0)
    with pytest.raises(ConfigError, match="of data with 5 clips, which now has 6; put back"):
        batches(Numbered(6), tmp_path).restore(made.state())


def test_nothing_usable_is_an_error_not_a_loop_without_end(tmp_path: Path) -> None:
    none = Numbered(4, broken=(0, 1, 2, 3))
    with pytest.raises(ConfigError, match=r"no clip can be used; .*skipped.jsonl has the reasons"):
        batches(none, tmp_path).next(0)
    with pytest.raises(ConfigError, match="no clip can be used"):
        first_examples(none, 3, Skipped(tmp_path / "skipped.jsonl"))


def test_the_first_usable_examples_come_in_order_a_batch_for_each_shape(tmp_path: Path) -> None:
    skipped = Skipped(tmp_path / "skipped.jsonl")
    wide, tall = first_examples(Numbered(9, broken=(0, 4), tall=(3,)), 5, skipped)
    assert numbers(wide) == [1, 2, 5, 6]
    assert numbers(tall) == [3]
    assert [len(part.scenes) for part in wide.split(3)] == [3, 1]
    assert [part.total for part in wide.split(3)] == [3, 1]
    assert skipped.ids == {"0", "4"}


def test_a_list_that_was_cut_short_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "skipped.jsonl"
    path.write_text('{"id": "1", "kind": "broken"}\n{"id": "2", "ki')
    skipped = Skipped(path)
    assert skipped.ids == {"1"}
    skipped.add(Scene(id="2", context=""), UnusableVideo("missing", "is not there"))
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["1", "2"]


MIXED = Numbered(11, broken=(1, 7), tall=(0, 2, 8))


def shared(folder: Path, state: dict[str, Any] | None, steps: int, workers: int = 0) -> Any:
    """What each process does of some batches, and where it is then."""

    def work(ranks: Ranks) -> tuple[list[Batch], Any]:
        skipped = Skipped(folder / "skipped.jsonl", writes=ranks.main)
        made = ClipBatches(MIXED, 4, 3, skipped, workers, ranks)
        if state is not None:
            made.restore(state)
        found = [made.next(step) for step in range(steps)], json.loads(json.dumps(made.state()))
        made.close()
        return found

    return work


def whole(parts: tuple[Batch, ...]) -> list[int]:
    """A batch in order, of which each process has a part."""
    placed = [pair for part in parts for pair in zip(part.here.tolist(), numbers(part), strict=True)]
    assert [place for place, _ in sorted(placed)] == list(range(parts[0].total))
    assert len({part.shape for part in parts}) == 1
    return [row for _, row in sorted(placed)]


@pytest.mark.parametrize(("count", "workers"), [(2, 0), (3, 2)])
def test_several_processes_share_the_batches_of_one_whatever_their_number(
    tmp_path: Path, count: int, workers: int
) -> None:
    straight = rows(batches(MIXED, tmp_path / "one"), 20)
    first = together(count, shared(tmp_path / "several", None, 7, workers))
    states = [state for _, state in first]
    assert states == [states[0]] * count
    assert all(0 < sum(len(numbers(part)) for part in done) < 4 * 7 for done, _ in first)
    # Where three stopped two go on, and the other way round.
    then = together(5 - count, shared(tmp_path / "several", states[0], 13, workers))
    found = [
        whole(parts) for done in (first, then) for parts in zip(*(made for made, _ in done), strict=True)
    ]
    assert found == straight
    lists = [(tmp_path / name / "skipped.jsonl").read_text() for name in ("one", "several")]
    assert lists[0] == lists[1]


def test_the_first_examples_of_several_processes_are_those_of_one(tmp_path: Path) -> None:
    alone = first_examples(MIXED, 6, Skipped(tmp_path / "one.jsonl"))
    found = together(
        2, lambda ranks: first_examples(MIXED, 6, Skipped(tmp_path / "two.jsonl", writes=ranks.main), ranks)
    )
    assert [whole(parts) for parts in zip(*found, strict=True)] == [numbers(batch) for batch in alone]
    # Parts for the held-out loss: of the whole batch, wherever its rows are.
    parts = [[batch.split(2) for batch in own] for own in found]
    for place, batch in enumerate(alone):
        cut = [whole(pair) for pair in zip(*(own[place] for own in parts), strict=True)]
        assert cut == [numbers(part) for part in batch.split(2)]


def test_nothing_usable_is_an_error_in_every_process(tmp_path: Path) -> None:
    none = Numbered(4, broken=(0, 1, 2, 3))

    def work(ranks: Ranks) -> Batch:
        skipped = Skipped(tmp_path / "skipped.jsonl", writes=ranks.main)
        return ClipBatches(none, 4, 3, skipped, 0, ranks).next(0)

    with pytest.raises(ConfigError, match="no clip can be used"):
        together(2, work)
