"""What the routes share, and the checks that every request with photos passes: keys out of a file, and rates."""

import asyncio
import hmac
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from fastapi import Request

from cellcode.errors import InputError
from cellcode.serving.guard import Metrics
from cellcode.serving.intake import Held, Intake
from cellcode.serving.problems import Problem
from cellcode.serving.service import Holder, Service
from cellcode.serving.settings import Settings

MIN_LENGTH = 16
REMEMBERED = 10_000  # askers whose rate is known; the one longest silent is forgotten first


def read_keys(path: Path) -> frozenset[str]:
    """Read keys, one per line; empty lines and lines that start with # are skipped.

    Raises:
        InputError: the file cannot be read, holds no key, or one that is too short. Keys are never repeated in it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = type(error).__name__
        raise InputError(f"{path} cannot be read as a file of keys ({why}); it needs one per line") from None
    keys = {number: key for number, line in enumerate(lines, 1) if (key := line.strip()) and not key.startswith("#")}
    for number, key in keys.items():
        if len(key) < MIN_LENGTH or not key.isascii() or " " in key:
            raise InputError(f"{path}, line {number}: a key needs at least {MIN_LENGTH} ASCII characters, no spaces")
    if not keys:
        raise InputError(f"{path} holds no key; it needs one per line")
    return frozenset(keys.values())


def _key(keys: frozenset[str], authorization: str | None) -> str:
    """The key of an Authorization header; Problem unauthorized if it holds none of the keys."""
    kind, _, given = (authorization or "").partition(" ")
    if kind.lower() != "bearer" or not given:
        raise Problem("unauthorized", "this service needs a key")
    # Every key is compared, each in constant time: the time it takes reveals nothing.
    matches = [key for key in keys if hmac.compare_digest(key.encode(), given.strip().encode("utf-8", "replace"))]
    if not matches:
        raise Problem("unauthorized", "the key is not one of this service")
    return matches[0]


class Rates:
    """A bucket of photos for each asker, refilled evenly and as large as a minute's worth; None: no limit."""

    def __init__(self, per_minute: float | None) -> None:
        self.per_minute = per_minute
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, asker: str, photos: int = 1) -> None:
        """Take photos out of the asker's bucket; the last ones may overdraw it. Problem rate_limited: it is empty."""
        if self.per_minute is None:
            return
        now = time.monotonic()
        left, at = self._buckets.pop(asker, (self.per_minute, now))
        left, least = min(self.per_minute, left + (now - at) * self.per_minute / 60), min(1.0, self.per_minute)
        if left < least:
            self._buckets[asker] = (left, now)
            wait = max(math.ceil((least - left) * 60 / self.per_minute), 1)
            raise Problem("rate_limited", f"more than {self.per_minute:g} photos per minute", retry_after_s=wait)
        self._buckets[asker] = (left - photos, now)
        while len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)


@dataclass
class State:
    """One running service; `keys` that are empty let everyone in, `working` requests with photos are not answered yet."""

    settings: Settings
    keys: frozenset[str]
    holder: Holder = field(default_factory=Holder)
    metrics: Metrics = field(default_factory=Metrics)
    working: int = 0

    def __post_init__(self) -> None:
        self.rates, self.memory = Rates(self.settings.rate_per_minute), Held(self.settings.body_bytes)
        self._slots = asyncio.Semaphore(self.settings.requests)
        self._batch_slots = asyncio.Semaphore(max(1, self.settings.requests // 2))  # the others are left to who waits

    def put(self, service: Service) -> None:
        """Let new requests use a service."""
        service.encoder.sizes = self.metrics.batches.observe
        self.holder.put(service)

    @asynccontextmanager
    async def intake(self, request: Request, seconds: float) -> AsyncIterator[Intake]:
        """Take in a request and answer it; Problem: rate_limited, overloaded, or timeout, it takes longer altogether."""
        self.rates.take(request.state.asker, 0)
        if self._slots.locked():  # before its body is read in vain
            self._refuse()
        intake = Intake(self.settings, self.memory)
        try:
            async with asyncio.timeout(seconds):
                yield intake
        except TimeoutError:
            raise Problem("timeout", f"the request took longer than {seconds:g} s") from None
        finally:
            intake.give(intake.held)

    @asynccontextmanager
    async def work(self, *, batch: bool = False) -> AsyncIterator[Service]:
        """Hold a place and the service for photos that are there; those of a batch wait for a place.

        Raises:
            Problem: overloaded, all places are taken.
        """
        if self._slots.locked() and not batch:
            self._refuse()
        async with self._batch_slots if batch else nullcontext(), self._slots, self.holder.lease() as service:
            self.working += 1
            self.metrics.working.inc()
            try:
                yield service
            finally:
                self.working -= 1
                self.metrics.working.dec()

    def _refuse(self) -> NoReturn:
        raise Problem("overloaded", f"{self.working} requests are at work already", retry_after_s=1)


def of(request: Request) -> State:
    """Return the state of the app that a request came to."""
    state: State = request.app.state.service
    return state


def admit(request: Request) -> None:
    """Let a request pass if it has a key, or none is needed; rates are of the key, or else of the address."""
    keys, address = of(request).keys, request.client.host if request.client is not None else ""
    request.state.asker = _key(keys, request.headers.get("authorization")) if keys else address
