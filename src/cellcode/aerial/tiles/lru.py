"""A least-recently-used cache that loads each value once, even when several threads want it at the same time."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Lru(Generic[K, V]):
    """The values used last, up to a limit of the sum of their sizes."""

    def __init__(self, limit: int, size: Callable[[V], int]) -> None:
        self._limit, self._size, self._total = limit, size, 0
        self._entries: OrderedDict[K, Future[V]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K, load: Callable[[], V]) -> V:
        """Return the value of a key, loading it if it is not there; an error of `load` reaches all who wait for it."""
        with self._lock:
            entry = self._entries.get(key)
            mine = entry is None
            if entry is None:
                entry = self._entries[key] = Future()
            else:
                self._entries.move_to_end(key)
        if not mine:
            return entry.result()
        try:
            value = load()
        except BaseException as error:
            with self._lock:
                self._forget(key)  # who waits for it gets the error
            entry.set_exception(error)
            raise
        with self._lock:
            entry.set_result(value)
            if self._entries.get(key) is entry:  # it may have been dropped meanwhile
                self._total += self._size(value)
                self._shrink()
        return value

    def __contains__(self, key: K) -> bool:
        entry = self._entries.get(key)
        return entry is not None and entry.done()

    def drop_if(self, meant: Callable[[K], bool]) -> None:
        """Forget the keys for which `meant` is true; who waits for one still gets its value."""
        with self._lock:
            for key in [key for key in self._entries if meant(key)]:
                self._forget(key)

    def _shrink(self) -> None:
        while self._total > self._limit:
            oldest = next((key for key, entry in self._entries.items() if entry.done()), None)
            if oldest is None:
                return
            self._forget(oldest)

    def _forget(self, key: K) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None and entry.done() and not entry.exception():
            self._total -= self._size(entry.result())
