"""Search of shards on the machines of a Ray cluster: one actor a shard, the same answers as on one machine.

    with ClusterSearcher.start(["/data/north.cells", "/data/south.cells"], address="auto") as searcher:
        hits = searcher.search(queries, k=10)

A shard whose actor dies, fails or does not answer in time is started again; if that does not help, the question fails, or
where partial answers are allowed `Hits.searched.missing` names the shard. Needs the extra `ray`.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np

from cellcode.database.store.shards import Shard, check_shards, common, same_cells
from cellcode.errors import CellcodeError, MissingExtraError, UsageError
from cellcode.geography import Region
from cellcode.search.searcher import DatabaseSearcher, Hits, check_k, ranges_of
from cellcode.search.sharded import merge
from cellcode.types import Float32, Ids

OBJECT_STORE_BYTES = 100 << 20  # of a Ray of our own; questions and answers are small, codes never travel
# One processor an actor: a second thread, or one that spins while it waits, would take it from another shard.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


class ShardUnusable(Exception):
    """An actor cannot open its database; another one may."""


class ShardActor:
    """What runs on a node of the cluster: the searcher of one database, opened at the first call. Knows nothing of Ray.

    Args:
        expected: what the actor before this one had opened in the folder.
    """

    def __init__(self, folder: str, expected: Shard | None = None) -> None:
        self.folder, self.expected = folder, expected
        self._opened: DatabaseSearcher | None = None
        self._region: Region | None = None

    def facts(self) -> Shard:
        """Describe the shard."""
        return Shard.of(self._searcher.database)

    def count(self, region: Region | None) -> int:
        """See `Searcher`."""
        if region != self._region:  # an equal one has its rows remembered by the searcher, which knows it by identity
            self._region = region
        return self._searcher.count(self._region)

    def search(
        self, queries: Float32, k: int, region: Region | None, temperature: float | None
    ) -> tuple[int, Hits | None]:
        """Return the number of cells in the region, and the best k of them or all; None if there are none."""
        if not (count := self.count(region)):
            return 0, None
        queries = np.array(queries)  # Ray's arrays are read-only, which torch does not know
        return count, self._searcher.search(queries, min(k, count), self._region, temperature)

    def ids(self) -> Ids:
        """Return the ids of all cells, for `common`."""
        return np.array(self._searcher.database.ids)

    def common(self, ids: Ids) -> int:
        """Return how many of some sorted ids this shard has."""
        return common(self._searcher.database.ids, ids)

    def pid(self) -> int:
        """Return the actor's process on its node."""
        return os.getpid()

    @property
    def _searcher(self) -> DatabaseSearcher:
        if self._opened is None:
            import torch

            torch.set_num_threads(1)
            try:
                opened = DatabaseSearcher.open(self.folder)
            except CellcodeError as error:
                raise ShardUnusable(str(error)) from None
            if self.expected not in (None, Shard.of(opened.database)):
                raise ShardUnusable("its database is another since the search was started; start it again")
            self._opened = opened
        return self._opened


class ShardError(CellcodeError):
    """Shards could not be searched; the sentence names them and says why."""


class ClusterSearcher:
    """Searches shards through Ray actors; a `Searcher`, and a context manager. `ClusterSearcher.start` makes one.

    Calls may come from several threads. `log_mass` differs a little from one database's (see `ShardedSearcher.search`).
    """

    def __init__(
        self,
        folders: Sequence[Path | str],
        resources: Sequence[dict[str, float]],
        *,
        restarts: int,
        timeout_s: float,
        allow_partial: bool,
    ) -> None:
        self.restarts, self.timeout_s, self.allow_partial = restarts, timeout_s, allow_partial
        self.shards: tuple[Shard, ...] = ()
        self._folders, self._resources = [str(folder) for folder in folders], list(resources)
        self._ray, self._own_ray, self._lock = _ray(), False, threading.Lock()
        self._actors: list[Any] = []

    @classmethod
    def start(
        cls,
        folders: Sequence[Path | str],
        *,
        address: str | None = None,
        resources: Sequence[dict[str, float]] | None = None,
        restarts: int = 1,
        timeout_s: float = 60,
        allow_partial: bool = False,
    ) -> Self:
        """Start one actor a shard, each on one processor, spread over the nodes.

        Args:
            folders: databases, under the same path on every node (a shared file system, or a copy).
            address: of a Ray cluster, or "auto"; None: the one this process is connected to, else a Ray of our own on
                this machine, open to this machine only, which ends with the searcher.
            resources: for each shard the custom Ray resources its node must have, such as {"north": 1}; None: any node.
            restarts: how often a shard that fails is started again and asked again, for each question.
            timeout_s: for each question with its restarts, and for the start.
            allow_partial: answer from the other shards where some fail, and name those in `Hits.searched.missing`.

        Raises:
            ShardError: shards do not start; their databases must open, whether partial answers are allowed or not.
            InputError: they are no disjoint shards of one whole.
            UsageError: no folders, or other lists that do not fit.
            MissingExtraError: Ray is not installed.
        """
        if not folders:
            raise UsageError("there are no shards to search; give at least one folder")
        if resources is not None and len(resources) != len(folders):
            raise UsageError(f"there are {len(resources)} resources for {len(folders)} shards; give one for each")
        if restarts < 0 or not timeout_s > 0:
            raise UsageError(f"restarts ({restarts}) must not be negative, timeout_s ({timeout_s}) must be above 0")
        resources = resources if resources is not None else [{} for _ in folders]
        made = cls(folders, resources, restarts=restarts, timeout_s=timeout_s, allow_partial=allow_partial)
        try:
            made._connect(address)
            made._open()
        except BaseException:
            made.close()
            raise
        return made

    def count(self, region: Region | None = None) -> int:
        """Return the number of cells in a region; where partial answers are allowed, of the shards that answer."""
        if region is None and not self.allow_partial:
            return sum(shard.cells for shard in self.shards)
        counts, failed = self._ask(lambda actor: actor.count.remote(region), self._near(region))
        self._refuse(failed)
        return sum(counts.values())

    def search(self, queries: Float32, k: int, region: Region | None = None, temperature: float | None = None) -> Hits:
        """See `Searcher`.

        Raises:
            ShardError: a shard was not searched and partial answers are not allowed, or none was searched, or those that
                were have fewer than k cells in the region.
        """
        shared = self._ray.put(np.ascontiguousarray(queries, np.float32))
        call = lambda actor: actor.search.remote(shared, k, region, temperature)  # noqa: E731
        answers, failed = self._ask(call, self._near(region))
        self._refuse(failed)
        cells = sum(count for count, _ in answers.values())
        if failed and k > cells:  # also where no shard answers
            raise ShardError(f"{k} cells were requested, the shards that answer have {cells}; {self._said(failed)}")
        check_k(k, cells, region)
        parts = [hits for _, (_, hits) in sorted(answers.items()) if hits is not None]
        return merge(parts, k, tuple(str(self.shards[number]) for number in sorted(failed)))

    def close(self) -> None:
        """End the actors, and Ray if `start` began it; closing twice is harmless."""
        actors, self._actors = self._actors, []
        for actor in actors:
            with suppress(Exception):
                self._ray.kill(actor)
        if self._own_ray:
            self._own_ray = False
            self._ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _connect(self, address: str | None) -> None:
        if self._ray.is_initialized():
            return
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is not None:
            try:
                self._ray.init(address=address, **quiet)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ShardError(f"there is no Ray cluster at {address} ({_first_line(error)})") from None
        else:
            self._ray.init(
                address="local",
                num_cpus=max(len(self._folders), os.cpu_count() or 1),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                **quiet,
            )
        self._own_ray = True

    def _open(self) -> None:
        self._actors = [self._started(number) for number in range(len(self._folders))]
        facts, failed = self._ask(lambda actor: actor.facts.remote(), range(len(self._folders)))
        if failed:
            said = "; ".join(f"{self._folders[number]}: {reason}" for number, reason in failed.items())
            raise ShardError(f"{len(failed)} of {len(self._folders)} shards did not start: {said}")
        self.shards = tuple(facts[number] for number in range(len(self._folders)))
        for one, other in check_shards(self.shards):
            if self._ray.get(self._actors[one].common.remote(self._actors[other].ids.remote())):
                raise same_cells(self._folders[one], self._folders[other])

    def _started(self, number: int) -> Any:
        options = {
            "num_cpus": 1,
            "resources": self._resources[number],
            "scheduling_strategy": "SPREAD",
            "max_restarts": 0,  # counted here: a fresh actor is also needed where one hangs
            "runtime_env": {"env_vars": ENVIRONMENT},
        }
        expected = self.shards[number] if self.shards else None
        return self._ray.remote(ShardActor).options(**options).remote(self._folders[number], expected)

    def _near(self, region: Region | None) -> list[int]:
        """Shards that may have cells in a region: the others need not be asked, nor be alive."""
        if region is None:
            return list(range(len(self.shards)))
        first, last = ranges_of(region, self.shards[0].level).T
        return [
            number
            for number, shard in enumerate(self.shards)
            if ((first <= np.uint64(shard.last)) & (last >= np.uint64(shard.first))).any()
        ]

    def _ask(self, call: Callable[[Any], Any], numbers: Sequence[int]) -> tuple[dict[int, Any], dict[int, str]]:
        """Ask some shards at once, and again where a new actor may help: answers and reasons for none, by the shard's number.

        Raises:
            CellcodeError: the question itself is wrong.
        """
        if not self._actors:
            raise UsageError("the searcher is closed; start another")
        deadline = time.monotonic() + self.timeout_s
        answers: dict[int, Any] = {}
        failed: dict[int, str] = {}
        tries = dict.fromkeys(numbers, 0)
        asked = {number: self._actors[number] for number in numbers}
        waiting = {call(actor): number for number, actor in asked.items()}
        while waiting:
            ready, _ = self._ray.wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            number = waiting.pop(ready[0])
            try:
                answers[number] = self._ray.get(ready[0])
                failed.pop(number, None)
            except self._ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, CellcodeError):
                    raise cause from None
                failed[number] = _reason(error, cause)
                tries[number] += not _never_ran(error)
                if tries[number] <= self.restarts and time.monotonic() < deadline:
                    asked[number] = self._replaced(number, asked[number])
                    waiting[call(asked[number])] = number
        for number in waiting.values():
            before = f" after {failed[number]}" if number in failed else ""
            failed[number] = f"no answer within {self.timeout_s:g} s{before}"
            if self.restarts:  # it may hang for good
                self._replaced(number, asked[number])
        return answers, dict(sorted(failed.items()))

    def _replaced(self, number: int, failed: Any) -> Any:
        # Unless another thread has done so already.
        with self._lock:
            if self._actors and self._actors[number] is failed:
                with suppress(Exception):
                    self._ray.kill(failed)
                self._actors[number] = self._started(number)
            return self._actors[number] if self._actors else failed

    def _refuse(self, failed: dict[int, str]) -> None:
        if failed and not self.allow_partial:
            raise ShardError(self._said(failed))

    def _said(self, failed: dict[int, str]) -> str:
        said = "; ".join(f"{self.shards[number]}: {reason}" for number, reason in failed.items())
        return f"{len(failed)} of {len(self.shards)} shards were not searched: {said}"


def _ray() -> Any:
    # Before the import: Ray reads it there, and nothing of ours is reported to anyone.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "ray", "search on a cluster") from None
    return ray


def _reason(error: Exception, cause: object) -> str:
    if isinstance(cause, ShardUnusable):
        return str(cause)
    if isinstance(cause, Exception):
        return f"{type(cause).__name__} ({_first_line(cause)})"
    return {
        "ActorDiedError": "its process or node died",
        "ActorUnavailableError": "its node cannot be reached",
        "OutOfMemoryError": "its node ran out of memory",
    }.get(type(error).__name__, f"{type(error).__name__} ({_first_line(error)})")


def _never_ran(error: Exception) -> bool:
    """Ray put the new actor on a node that had just gone and that it did not miss yet: that was no restart."""
    if "The actor never ran" not in str(error):
        return False
    time.sleep(0.1)  # it may happen again at once
    return True


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
