"""The application: routes, page, and what stands around them."""

import gzip
import mimetypes
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

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
from cellcode.errors import CellcodeError
from cellcode.serving import routes_database, routes_health, routes_photos
from cellcode.serving.guard import CODE, Guard
from cellcode.serving.problems import Problem, problem_of
from cellcode.serving.state import State

STATIC = files("cellcode.serving") / "static"


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
    for routes in (routes_photos, routes_database, routes_health):
        app.include_router(routes.router)
    app.mount("/static", _Static(directory=str(STATIC)), name="static")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(str(STATIC / "index.html"), headers={"cache-control": "no-cache"})

    _handle_errors(app)
    _surround(app, state)
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
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return _answered(request, Problem("bad_request", f"{where}: {first['msg']}"))

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
    """Files of the page, revalidated each time: an update never mixes versions. Large ones are kept compressed, as NAME.gz."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """Return where a file is, or its compressed form."""
        found, status = super().lookup_path(path)
        return (found, status) if status is not None else super().lookup_path(f"{path}.gz")

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Send a file; a compressed one as it is, or unpacked to clients that do not take gzip."""
        response: Response = super().file_response(full_path, stat_result, scope, status_code)
        if str(full_path).endswith(".gz"):
            if "gzip" in Headers(scope=scope).get("accept-encoding", ""):
                response.headers["content-encoding"] = "gzip"
            else:
                response = Response(gzip.decompress(Path(full_path).read_bytes()), media_type=response.media_type)
            response.headers["vary"] = "Accept-Encoding"
        response.headers["cache-control"] = "no-cache"
        return response


def _surround(app: FastAPI, state: State) -> None:
    """Add what stands around the routes, the innermost first."""
    app.add_middleware(GZipMiddleware, minimum_size=2048, compresslevel=5)
    if state.settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(state.settings.cors),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
        )
    app.add_middleware(Guard, metrics=state.metrics, basemap=state.settings.basemap)
