"""The server process (addresses, signals, its end) and the application: routes, page, and what stands around them."""

import asyncio
import gzip
import ipaddress
import logging
import mimetypes
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

import cellcode
from cellcode.errors import CellcodeError, InputError
from cellcode.serving import connections, routes_database, routes_photos
from cellcode.serving.guard import CODE, Guard
from cellcode.serving.problems import Problem, invalid, problem_of
from cellcode.serving.service import Service
from cellcode.serving.settings import Settings
from cellcode.serving.state import State, read_keys

GRACE_SECONDS = 30
STATIC = files("cellcode.serving") / "static"
logger = logging.getLogger(__name__)


def serve(
    cells: Path,
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    aerial: str | None = None,
    key_file: Path | None = None,
    **locator: Any,
) -> None:
    """Serve a database until the process receives SIGINT or SIGTERM; requests at work are answered first.

    SIGHUP opens the folder again, and the imagery; if they answer, new requests use them, else the old ones stay.

    Args:
        host, port: address, which is logged; 0: any free port.
        key_file: API keys, one per line.
        cells, aerial, locator: see `Service`.

    Raises:
        InputError: the database, the imagery or the keys cannot be used, or the address is taken.
    """
    # Each call of the encoder has its share of the cores: two calls side by side lose less to waiting for one another, and
    # to the threads that decode, than the threads of one call do.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // settings.encoder_calls))
    accepted = read_keys(key_file) if key_file is not None else frozenset()
    state = State(settings, accepted)
    make = partial(Service, cells, settings, aerial, **locator)
    state.put(make())  # before the address is bound: a database that cannot be opened is a plain error
    listening = _bind(host, port)
    if not is_loopback(host) and not accepted:
        said = (
            "can be reached by other machines and no keys are required; give --keys FILE, or put a proxy with a login"
        )
        logger.warning("%s %s in front", host, said)
    _Server(configuration(state), state, make).run(sockets=[listening])


def configuration(state: State, log_level: str = "warning") -> uvicorn.Config:
    """Return how uvicorn runs the application of a state."""
    return uvicorn.Config(
        create(state),
        http=connections.of(state.settings),
        ws="none",
        access_log=False,
        log_level=log_level,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


class _Server(uvicorn.Server):
    """Logs where it listens, and opens the database again on SIGHUP."""

    def __init__(self, config: uvicorn.Config, state: State, make: Callable[[], Service]) -> None:
        super().__init__(config)
        self.state, self.make, self._swap = state, make, asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if hasattr(signal, "SIGHUP"):  # not on Windows
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._again)
        for each in sockets or []:
            host, port = each.getsockname()[:2]
            logger.info("serving on http://%s:%d", f"[{host}]" if ":" in host else host, port)

    def _again(self) -> None:
        task = asyncio.get_running_loop().create_task(self._replace())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _replace(self) -> None:
        async with self._swap:  # one after the other
            swaps = self.state.metrics.swaps
            try:
                made = await asyncio.get_running_loop().run_in_executor(None, self.make)
            except Exception as error:
                swaps.labels("failed").inc()
                reason = error if isinstance(error, CellcodeError) else f"unexpected {type(error).__name__}"
                logger.error("the database was not replaced, the old one stays: %s", reason)
                return
            self.state.put(made)
            swaps.labels("done").inc()
            logger.info("the database was replaced; identity %s", made.database.identity)


def _bind(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        made = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise InputError(f"{host}:{port} cannot be listened on ({error}); choose another --host or --port") from None
    # Connections inherit it. Without it the second part of an answer waits 40 ms until the first is acknowledged: asyncio
    # switches it on only for sockets that were made with the protocol's number, which `create_server` does not give.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def is_loopback(host: str) -> bool:
    """Return True if an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def create(state: State) -> FastAPI:
    """Return the application of a state whose holder has a service."""
    mimetypes.add_type("text/javascript", ".mjs")
    app = FastAPI(
        title="cellcode",
        version=cellcode.__version__,
        summary="Where was this photo taken?",
        description="Scores, probabilities and radii mean what docs/serving.md says. Every error has the body ErrorBody.",
        docs_url=None,  # it would load from other hosts
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.service = state
    for routes in (routes_photos.router, routes_database.router, routes_database.health):
        app.include_router(routes)
    app.mount("/static", _Static(directory=str(STATIC)), name="static")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(str(STATIC / "index.html"), headers={"cache-control": "no-cache"})

    _handle_errors(app)
    # What stands around the routes, the innermost first.
    app.add_middleware(GZipMiddleware, minimum_size=2048, compresslevel=5)
    if origins := list(state.settings.cors):
        headers = ["authorization", "content-type"]
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=headers)
    app.add_middleware(Guard, metrics=state.metrics, basemap=state.settings.basemap)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    app.state.service.holder.close()


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> JSONResponse:
        return _answered(request, error)

    @app.exception_handler(CellcodeError)
    async def known(request: Request, error: CellcodeError) -> JSONResponse:
        return _answered(request, problem_of(error))

    @app.exception_handler(RequestValidationError)
    async def unfit(request: Request, error: RequestValidationError) -> JSONResponse:
        return _answered(request, invalid(error.errors()[0]))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        codes = {404: "not_found", 405: "method_not_allowed"}
        response = _answered(request, Problem(codes.get(error.status_code, "bad_request"), str(error.detail)))
        if error.headers:
            response.headers.update(error.headers)
        return response


def _answered(request: Request, problem: Problem) -> JSONResponse:
    request.scope[CODE] = problem.code
    return problem.response()


class _Static(StaticFiles):
    """Files of the page, revalidated each time: an update never mixes versions. Large ones are kept compressed, as NAME.gz.

    They are sent as they are, or unpacked to clients that do not take gzip.
    """

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        found, status = super().lookup_path(path)
        return (found, status) if status is not None else super().lookup_path(f"{path}.gz")

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response: Response = super().file_response(full_path, stat_result, scope, status_code)
        if str(full_path).endswith(".gz"):
            if "gzip" in Headers(scope=scope).get("accept-encoding", ""):
                response.headers["content-encoding"] = "gzip"
            else:
                response = Response(_unpacked(str(full_path), stat_result.st_mtime_ns), media_type=response.media_type)
            response.headers["vary"] = "Accept-Encoding"
        response.headers["cache-control"] = "no-cache"
        return response


@lru_cache(maxsize=16)
def _unpacked(path: str, _mtime_ns: int) -> bytes:
    return gzip.decompress(Path(path).read_bytes())
