"""Micro-batching: what waits while calls are at work is answered together by the next."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from cellcode.serving.problems import Problem

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Hands items to a function in threads, as many as wait and fit.

    No timer holds an item back: a lone one is worked on at once, and under load batches fill while the one before runs.

    Args:
        work: from items to as many results, in their order; a result that is an exception is raised to its asker.
        most: items of one call.
        waiting: items that may wait; more are refused.
        threads: where the function is called.
        calls: at work at the same time, at most.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        most: int,
        waiting: int,
        threads: ThreadPoolExecutor,
        calls: int = 1,
    ) -> None:
        self._work, self._most, self._waiting, self._threads, self._calls = work, most, waiting, threads, calls
        self._queue: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._runners: set[asyncio.Task[None] | None] = set()
        self.sizes: Callable[[int], object] = lambda size: None  # called with the size of each call

    @property
    def waiting(self) -> int:
        """Items that no call has taken yet."""
        return len(self._queue)

    async def submit(self, item: Item) -> Result:
        """Return the result of an item; Problem overloaded: too many wait."""
        if len(self._queue) >= self._waiting:
            raise Problem("overloaded", f"{len(self._queue)} photos are waiting already", retry_after_s=1)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.append((item, future))
        if len(self._runners) < self._calls:
            self._runners.add(asyncio.create_task(self._run()))
        return await future

    async def _run(self) -> None:
        try:
            while self._queue:
                taken: list[tuple[Item, asyncio.Future[Result]]] = []
                while self._queue and len(taken) < self._most:
                    item, future = self._queue.popleft()
                    if not future.done():  # its asker has gone
                        taken.append((item, future))
                if taken:
                    await self._call(taken)
        finally:
            # Here and not in a callback of the task, which comes a turn later: what is queued in between would wait for ever.
            self._runners.discard(asyncio.current_task())

    async def _call(self, taken: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        self.sizes(len(taken))
        items = [item for item, _ in taken]
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._threads, self._work, items)
        except Exception as error:
            results = [error] * len(taken)
        for (_, future), result in zip(taken, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
