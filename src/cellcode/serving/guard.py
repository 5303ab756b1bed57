"""Around every request: an id, security headers, one line in the log, counters, and no traceback to the outside."""

import logging
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cellcode.serving.problems import Problem
from cellcode.serving.settings import Basemap

logger = logging.getLogger(__name__)
CODE = "cellcode.code"  # of the error, in the scope
GONE = 499  # for the log: the client went away before its answer
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64)  # what /metrics counts distinguishes neither users nor photos


class Metrics:
    """Counters of one service."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter("cellcode_requests", "Requests by route and status", ["route", "status"], registry=own)
        self.seconds = Histogram(
            "cellcode_request_seconds", "Time of requests", ["route"], buckets=SECONDS, registry=own
        )
        self.photos = Counter("cellcode_photos", "Photos answered, or by code of the error", ["outcome"], registry=own)
        self.batches = Histogram(
            "cellcode_encoder_batch_photos", "Photos in one encoder call", buckets=SIZES, registry=own
        )
        self.working = Gauge("cellcode_requests_at_work", "Requests with photos, not answered yet", registry=own)
        self.waiting = Gauge("cellcode_photos_waiting", "Photos that wait for the encoder", registry=own)
        self.cells = Gauge("cellcode_database_cells", "Cells of the database", registry=own)
        self.swaps = Counter("cellcode_database_swaps", "Replacements of the database", ["outcome"], registry=own)

    def text(self) -> bytes:
        """Return the Prometheus text format."""
        return generate_latest(self.registry)


def headers(basemap: Basemap | None) -> list[tuple[bytes, bytes]]:
    """Return the headers that every answer carries; contents come from here, and tiles from the offered online map."""
    online = f" {basemap.origin}" if basemap is not None else ""
    policy = (
        "default-src 'none'; script-src 'self'; worker-src 'self' blob:; style-src 'self'; "
        f"img-src 'self' data: blob:{online}; connect-src 'self'{online}; font-src 'self'; manifest-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    values = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "permissions-policy": "camera=(self), geolocation=(), microphone=()",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
    }
    return [(name.encode(), value.encode()) for name, value in values.items()]


@dataclass
class _Seen:
    id: str
    status: int = 0
    bytes: int = 0


class Guard:
    """ASGI middleware.

    The log holds id, method, route, status, code of the error, bytes of the body and milliseconds: no address, no file name, no
    query, no key.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, basemap: Basemap | None) -> None:
        self.app, self.metrics, self.headers = app, metrics, headers(basemap)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        seen = _Seen(uuid.uuid4().hex[:12])
        started = time.perf_counter()

        async def counted() -> Message:
            message = await receive()
            seen.bytes += len(message.get("body", b""))
            return message

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = message["status"]
                message["headers"] = [
                    *_relative(scope["path"], message["headers"]),
                    *self.headers,
                    (b"x-request-id", seen.id.encode()),
                ]
            await send(message)

        try:
            await self.app(scope, counted, marked)
        except ClientDisconnect:
            seen.status = GONE
        except Exception as error:
            logger.error("id=%s unexpected %s", seen.id, where(error))
            if not seen.status:
                problem = Problem("internal", f"an unexpected error; request id {seen.id}")
                await problem.response()(scope, counted, marked)
        finally:
            self._record(scope, seen, time.perf_counter() - started)

    def _record(self, scope: Scope, seen: _Seen, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        status = seen.status or GONE
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        facts = (seen.id, scope["method"], route, status, scope.get(CODE, "-"), seen.bytes, seconds * 1000)
        logger.info("id=%s %s %s status=%d code=%s bytes=%d ms=%.1f", *facts)


def _relative(path: str, headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Headers of an answer to a path, with redirects that differ by a slash at the end relative to it.

    Starlette makes them of the client's Host header, which anyone can set, and which a proxy may have replaced.
    """
    for name, value in headers:
        if name == b"location":
            target = urlsplit(value.decode("latin-1"))
            last = target.path.rstrip("/").rpartition("/")[2]
            slashes = len(path) - len(path.rstrip("/"))
            there = "../" * slashes + last if slashes else f"./{last}/"
            value = f"{there}{'?' * bool(target.query)}{target.query}".encode("latin-1")
        yield name, value


def where(error: Exception) -> str:
    """Return the kind and line of an error, without its text, which may quote what the user sent."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}" if trace is not None else "?"
    return f"{type(error).__name__} at {place}"
