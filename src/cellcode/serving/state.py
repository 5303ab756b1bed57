"""What the routes share, and the checks that every request with photos passes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import Request

from cellcode.serving import keys
from cellcode.serving.metrics import Metrics
from cellcode.serving.problems import Problem
from cellcode.serving.service import Holder, Service
from cellcode.serving.settings import Settings


@dataclass
class State:
    """One running service.

    Attributes:
        keys: accepted API keys; empty: none are needed.
        working: requests with photos that are not answered yet.
    """

    settings: Settings
    keys: frozenset[str]
    holder: Holder = field(default_factory=Holder)
    metrics: Metrics = field(default_factory=Metrics)
    working: int = 0

    def __post_init__(self) -> None:
        self.rates = keys.Rates(self.settings.rate_per_minute)

    def put(self, service: Service) -> None:
        """Let new requests use a service."""
        service.encoder.sizes = self.metrics.batches.observe
        self.holder.put(service)

    @asynccontextmanager
    async def work(self, request: Request, seconds: float) -> AsyncIterator[Service]:
        """Hold the service for a request with photos.

        Raises:
            Problem: rate_limited, overloaded (too many are at work), or timeout.
        """
        self.rates.take(request.state.asker, 0)
        if self.working >= self.settings.requests:
            raise Problem("overloaded", f"{self.working} requests are at work already", retry_after_s=1)
        self.working += 1
        self.metrics.working.inc()
        try:
            async with self.holder.lease() as service, asyncio.timeout(seconds):
                yield service
        except TimeoutError:
            raise Problem("timeout", f"the request took longer than {seconds:g} s") from None
        finally:
            self.working -= 1
            self.metrics.working.dec()

    def charge(self, request: Request, photos: int) -> None:
        """Count photos against the asker's rate."""
        self.rates.take(request.state.asker, photos)


def of(request: Request) -> State:
    """Return the state of the app that a request came to."""
    state: State = request.app.state.service
    return state


def admit(request: Request) -> None:
    """Let a request pass if it has a key, or none is needed; rates are of the key, or else of the address.

    Raises:
        Problem: unauthorized.
    """
    state = of(request)
    address = request.client.host if request.client is not None else ""
    given = request.headers.get("authorization")
    request.state.asker = keys.check(state.keys, given) if state.keys else address
