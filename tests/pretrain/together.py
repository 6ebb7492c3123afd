"""Processes of a stage as threads of one, which is quick; tests/pretrain/test_together.py has real ones."""

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from rlnsp.distributed import Ranks

T = TypeVar("T")
PATIENCE_S = 60.0


class Table:
    """Where they put what they say."""

    def __init__(self, count: int) -> None:
        self.said: list[Any] = [None] * count
        self.barrier = threading.Barrier(count)


class Threads(Ranks):
    """Exchanges by a table."""

    def __init__(self, rank: int, table: Table) -> None:
        super().__init__(rank, len(table.said))
        self.table = table

    def exchange(self, own: T) -> list[T]:
        return self._put(json.loads(json.dumps(own)))

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        said = self._put([tensor.clone() for tensor in tensors])
        for place, tensor in enumerate(tensors):
            tensor.copy_(torch.stack([one[place] for one in said]).sum(0))

    def _put(self, own: Any) -> list[Any]:
        self.table.said[self.rank] = own
        self.table.barrier.wait(PATIENCE_S)
        said = list(self.table.said)
        self.table.barrier.wait(PATIENCE_S)
        return said


def together(count: int, work: Callable[[Ranks], T]) -> list[T]:
    """What each of ``count`` gets; an error of one is raised."""
    table = Table(count)

    def one(rank: int) -> T:
        try:
            return work(Threads(rank, table))
        except BaseException:
            table.barrier.abort()  # the others do not wait for it
            raise

    with ThreadPoolExecutor(count) as threads:
        futures = [threads.submit(one, rank) for rank in range(count)]
    errors = [error for future in futures if (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]
