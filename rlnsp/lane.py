"""Where a reward's calls run: coroutines on one event loop, plain functions in threads of their own."""

import asyncio
import inspect
import queue
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import cached_property, lru_cache
from typing import Any, TypeVar

T = TypeVar("T")


class Lane:
    """Room for ``width`` calls at a time, which are given it in the order they come.

    A plain function runs in one of ``width`` threads, always the same ones, so that what belongs to a thread,
    such as a connection, is found again.
    """

    def __init__(self, name: str, width: int = 1) -> None:
        self.name, self.width = name, width
        self.place = asyncio.Semaphore(width)
        """To be held during ``run`` by whoever may have several calls under way."""

    async def run(self, call: Callable[[], Any], *, in_thread: bool, timeout_s: float | None = None) -> Any:
        """What ``call()`` returns, awaited where it can be; on the event loop of ``in_background``.

        Args:
            call: a coroutine function, or a plain one.
            in_thread: it is a plain one, and may block.
            timeout_s: the longest that it may take.

        Raises:
            TimeoutError: it took longer.  A thread cannot be stopped: another takes its place.
        """
        async with asyncio.timeout(timeout_s):
            answer = await self._threads.run(call) if in_thread else call()
            return await answer if inspect.isawaitable(answer) else answer

    @cached_property
    def _threads(self) -> "_Threads":
        return _Threads(self.name, self.width)


def in_background(coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
    """Start a coroutine on the event loop; returns at once."""
    return asyncio.run_coroutine_threadsafe(coroutine, _loop())


@lru_cache(maxsize=1)
def _loop() -> asyncio.AbstractEventLoop:
    # One loop for the life of the process: clients keep connections that belong to the loop of their opening.
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="rlnsp-rewards", daemon=True).start()
    return loop


class _Threads:
    """Daemons: the threads of a ThreadPoolExecutor would keep an interrupted run from ending."""

    def __init__(self, name: str, count: int) -> None:
        self.name = name
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._given_up: set[Future[Any]] = set()
        for _ in range(count):
            self._start()

    async def run(self, call: Callable[[], Any]) -> Any:
        future: Future[Any] = Future()
        self._calls.put((call, future))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if future.running():
                self._given_up.add(future)
                self._start()
            raise

    def _start(self) -> None:
        threading.Thread(target=self._work, name=f"rlnsp-reward-{self.name}", daemon=True).start()

    def _work(self) -> None:
        future: Future[Any] | None = None
        while future not in self._given_up:
            call, future = self._calls.get()
            if not future.set_running_or_notify_cancel():
                continue  # it timed out while it waited
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)
            except BaseException as error:  # sys.exit() in a reward ends neither the thread nor the loop
                future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))
