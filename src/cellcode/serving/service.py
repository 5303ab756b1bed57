"""An open database at work: photos are decoded by workers, embedded together, and searched beside the next embedding.

Micro-batching: what waits while calls are at work is answered together by the next.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from cellcode.aerial import open_source
from cellcode.database import Database
from cellcode.errors import CellcodeError
from cellcode.geography import Region, s2
from cellcode.photos import PhotoError, PhotoSpec
from cellcode.search import Answer, Locator
from cellcode.search import together as joint
from cellcode.search.searcher import probabilities
from cellcode.serving.decoding import Decoders, Position
from cellcode.serving.maps import Imagery, aggregate
from cellcode.serving.problems import Problem, problem_of
from cellcode.serving.settings import Settings
from cellcode.serving.uploads import Photo
from cellcode.types import Float32, UInt8

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Seen:
    """A photo after the encoder: its query (D,), and latitude, longitude and heading in degrees if its file has them."""

    name: str
    query: Float32
    position: Position | None


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


class Service:
    """Answers photos from one database.

    Args:
        cells: folder of the database, or of its shards.
        aerial: imagery that crops and tiles are cut from; None: there are none.
        locator: options of `Locator.open`: engine, cluster, machine.

    Raises:
        InputError: the database or the imagery cannot be opened.
        UsageError, MissingExtraError: there is no such engine.
    """

    def __init__(
        self, cells: Database | Path | str, settings: Settings, aerial: Path | str | None = None, **locator: Any
    ) -> None:
        self.settings, self.users = settings, 0
        source = open_source(aerial) if aerial is not None else None
        self.locator = Locator.open(cells, calls=settings.encoder_calls, **locator)
        self.database = self.locator.database
        zooms = settings.imagery_min_zoom, settings.imagery_max_zoom
        self.imagery = Imagery(source, *zooms) if source is not None else None
        self._decoders = Decoders(settings.decoders, settings.decode_seconds)
        self._encoding = ThreadPoolExecutor(settings.encoder_calls, thread_name_prefix="encode")
        self._searching = ThreadPoolExecutor(1, thread_name_prefix="search")  # searchers are not for several threads
        most, calls = settings.encoder_batch, settings.encoder_calls
        # Decoding is bounded with the queue: what is decoded waits there.
        self.encoder = Batcher(self._embed, most, settings.queue, self._encoding, calls)
        self.searches = Batcher(self._answer, most, 2 * settings.queue, self._searching)
        self._decodes = asyncio.Semaphore(settings.queue)
        # Answer a grey photo: a service that cannot answer does not start, and the first user does not wait for loading.
        size = self.database.config.photo
        grey = np.full((1, size.height_px, size.width_px, 3), 128, np.uint8)
        self.locator.answers(["warm-up"], self.locator.embed(grey), 1, None)

    def crop_path(self, token: str | None) -> str | None:
        """Return the address of the imagery around a cell, if there are both."""
        return None if token is None or self.imagery is None else f"/v1/cells/{token}/aerial.jpg"

    async def see(self, photo: Photo) -> Seen:
        """Decode and embed a photo; Problem: it cannot be read, or too many wait."""
        if self.encoder.waiting >= self.settings.queue or self._decodes.locked():
            raise Problem("overloaded", f"{self.settings.queue} photos are waiting already", retry_after_s=1)
        async with self._decodes:
            pixels, position = await self._decode(photo)
            return Seen(photo.name, await self.encoder.submit(pixels), position)

    async def answer(self, seen: Seen, top: int, region: Region | None) -> Answer:
        """Search for one embedded photo."""
        return await self.searches.submit((seen, top, region))

    async def fuse(self, seen: Sequence[Seen], top: int, region: Region | None) -> Answer:
        """Search for several photos of one place."""
        queries, names = np.stack([each.query for each in seen]), [each.name for each in seen]
        asked = partial(joint.answer_embeddings, self.locator, queries, names=names, top=top, region=region)
        return await self.search(asked)

    async def heat(self, query: Float32, region: Region | None) -> dict[str, Any]:
        """Return the posterior as a map; `schemas.Heat`."""
        return await self.search(lambda: self._heat(query, region))

    async def search(self, work: Callable[[], Result]) -> Result:
        """Run a function in the thread of the searches."""
        return await asyncio.get_running_loop().run_in_executor(self._searching, work)

    def close(self) -> None:
        """Let the threads end; the files are unmapped with the last reference."""
        self._decoders.close()
        for threads in (self._encoding, self._searching):
            threads.shutdown(wait=False)
        self.locator.close()
        if self.imagery is not None:
            self.imagery.close()

    async def _decode(self, photo: Photo) -> tuple[UInt8, Position | None]:
        spec = PhotoSpec.of(self.database.config.photo, self.settings.photo_pixels)
        try:
            return await self._decoders.decode(photo.data, spec)
        except PhotoError as error:
            problem = problem_of(error)
            raise Problem(problem.code, photo.name + problem.message.removeprefix("photo")) from None

    def _embed(self, pixels: Sequence[UInt8]) -> Sequence[Float32]:
        return list(self.locator.embed(np.stack(pixels)))

    def _answer(self, questions: Sequence[tuple[Seen, int, Region | None]]) -> Sequence[Answer | Exception]:
        """Answer questions, those with the same region and number of candidates in one search."""
        groups: dict[tuple[int, Region | None], list[int]] = {}
        for row, (_, top, region) in enumerate(questions):
            groups.setdefault((top, region), []).append(row)
        found: list[Answer | Exception] = [RuntimeError("not answered")] * len(questions)
        for (top, region), rows in groups.items():
            seen = [questions[row][0] for row in rows]
            names, queries = [each.name for each in seen], np.stack([each.query for each in seen])
            try:
                answers: Sequence[Answer | Exception] = self.locator.answers(names, queries, top, region)
            except CellcodeError as error:
                answers = [problem_of(error)] * len(rows)
            for row, answer in zip(rows, answers, strict=True):
                found[row] = answer
        return found

    def _heat(self, query: Float32, region: Region | None) -> dict[str, Any]:
        searcher, temperature = self.locator.searcher, self.database.calibration.temperature
        cells = searcher.count(region)
        reach = cells if cells <= self.settings.heat_reach else self.settings.heat_cells
        hits = searcher.search(query[None], reach, region, temperature)
        ids, mass = aggregate(hits.cell_ids[0], probabilities(hits, temperature)[0], self.settings.heat_cells)
        shares = [float(f"{share:.3g}") for share in mass]
        return {"tokens": s2.tokens(ids), "mass": shares, "rest": max(0.0, 1.0 - float(mass.sum()))}


class Holder:
    """The service that new requests use. It can be replaced while old requests end on the one they began with."""

    def __init__(self) -> None:
        self.current: Service | None = None

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Service]:
        """Hold the current service for a request."""
        service = self.current
        if service is None:
            raise Problem("overloaded", "the service is starting", retry_after_s=2)
        service.users += 1
        try:
            yield service
        finally:
            service.users -= 1
            self._release(service)

    def put(self, made: Service) -> None:
        """Let new requests use a service; the old one is closed when its last request ends."""
        old, self.current = self.current, made
        if old is not None:
            self._release(old)

    def close(self) -> None:
        """Close the current service."""
        if self.current is not None:
            self.current.close()
            self.current = None

    def _release(self, service: Service) -> None:
        if service is not self.current and not service.users:
            service.close()
