"""Routes that describe the database and cut its imagery, and those for who runs the service."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import JSONResponse, Response

import cellcode
from cellcode.errors import InputError
from cellcode.geography import s2
from cellcode.geography.s2.ranges import rows_of_ids
from cellcode.serving import schemas, state
from cellcode.serving.maps import Imagery
from cellcode.serving.problems import Problem
from cellcode.serving.schemas import CellFacts, DatabaseFacts, Health, PolygonFacts
from cellcode.serving.service import Service
from cellcode.types import Ids

router = APIRouter(prefix="/v1", dependencies=[Depends(state.admit)])
health = APIRouter()
Token = Annotated[str, Path(description="S2 token of a cell", pattern="^[0-9a-f]{1,16}$")]
KEPT = "private, max-age=3600"


def _picture(kind: str) -> dict[int | str, dict[str, Any]]:
    shown = {"content": {kind: {"schema": {"type": "string", "format": "binary"}}}}
    return {200: shown, **schemas.errors("not_found", "bad_request", "overloaded")}


@router.get("/database", responses=schemas.errors("overloaded"))
async def database(request: Request) -> DatabaseFacts:
    """Return what is searched, under which licences, and the limits of requests."""
    own = state.of(request)
    async with own.holder.lease() as service:
        return _facts(service, own)


@router.get("/cells/{token}", responses=schemas.errors("not_found", "bad_request", "overloaded"))
async def cell(request: Request, token: Token) -> CellFacts:
    """Describe a cell."""
    async with state.of(request).holder.lease() as service:
        row, ids, lat, lon = _cell(service, token)
        found, corners = service.database.facts, s2.cell_polygons(ids)[0]
        ring = [(float(lon_deg), float(lat_deg)) for lat_deg, lon_deg in [*corners, corners[0]]]
        return CellFacts(
            cell=token,
            level=service.database.level,
            lat=lat,
            lon=lon,
            polygon=PolygonFacts(coordinates=[ring]),
            has_prototype=bool(found.has_prototype[row]),
            has_aerial=bool(found.has_aerial[row]),
            training_photos=int(found.photos[row]),
            aerial=service.crop_path(token),
        )


@router.get("/cells/{token}/aerial.jpg", responses=_picture("image/jpeg"), response_class=Response)
async def crop(request: Request, token: Token, size_px: Annotated[int, Query(ge=16, le=1024)] = 256) -> Response:
    """Return the imagery around a cell, north up and two cells wide."""
    async with state.of(request).holder.lease() as service:
        *_, lat, lon = _cell(service, token)
        level = service.database.level
        return await _cut(service, "image/jpeg", lambda imagery: imagery.cell(lat, lon, level, size_px))


@router.get("/tiles/{z}/{x}/{y}.webp", responses=_picture("image/webp"), response_class=Response)
async def tile(
    request: Request, z: Annotated[int, Path(ge=0, le=30)], x: Annotated[int, Path(ge=0)], y: Annotated[int, Path(ge=0)]
) -> Response:
    """Return a tile of the imagery in web mercator, 256 pixels wide, transparent where there is none."""
    async with state.of(request).holder.lease() as service:
        return await _cut(service, "image/webp", lambda imagery: imagery.tile(z, x, y))


async def _cut(service: Service, kind: str, cut: Callable[[Imagery], bytes]) -> Response:
    imagery = service.imagery
    if imagery is None:
        raise Problem("not_found", "the service was started without imagery")
    try:
        made = await asyncio.get_running_loop().run_in_executor(imagery.threads, lambda: cut(imagery))
    except InputError:
        raise Problem("not_found", "the imagery cannot be read here") from None
    return Response(made, media_type=kind, headers={"cache-control": KEPT})


def _cell(service: Service, token: str) -> tuple[int, Ids, float, float]:
    """The row, id (1,) and centre of a cell."""
    try:
        ids = s2.from_tokens([token])
    except InputError as error:
        raise Problem("not_found", str(error)) from None
    row = int(rows_of_ids(service.database.ids, ids)[0])
    if row < 0 or s2.tokens(ids)[0] != token:
        raise Problem("not_found", f"the database has no cell {token}")
    lat, lon = s2.cell_centers(ids)
    return row, ids, float(lat[0]), float(lon[0])


def _facts(service: Service, own: state.State) -> DatabaseFacts:
    database, settings, imagery = service.database, own.settings, service.imagery
    calibration = database.calibration
    pictures: dict[str, Any] | None = None
    if imagery is not None:
        pictures = {name: getattr(imagery.source, name) for name in ("attribution", "date")}
        pictures |= {name: getattr(imagery, name) for name in ("min_zoom", "max_zoom")}
    values = {
        **database.manifest,  # levels, cells, training_photos, licences, attributions
        "name": database.manifest["run"]["name"],
        "identity": database.identity,
        "version": cellcode.__version__,
        "cell_edge_m": s2.mean_edge_m(database.level),
        "bounds": database.region_bounds,
        "tells_outside": calibration.inside is not None or calibration.outside_score is not None,
        "imagery": pictures,
        "basemap": settings.basemap and settings.basemap.model_dump(),
        "keys_needed": bool(own.keys),
        "limits": settings.model_dump(),
    }
    return DatabaseFacts.model_validate(values)


@health.get("/healthz")
async def healthz() -> Health:
    """Report that the process answers."""
    return Health(status="ok")


@health.get("/readyz", responses={503: {"model": Health}}, response_model=Health)
async def readyz(request: Request) -> Response:
    """Report whether photos can be answered."""
    ready = state.of(request).holder.current is not None
    return JSONResponse({"status": "ok" if ready else "starting"}, status_code=200 if ready else 503)


@health.get(
    "/metrics", responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}, response_class=Response
)
async def metrics(request: Request) -> Response:
    """Return counters in the Prometheus text format."""
    own = state.of(request)
    if (service := own.holder.current) is not None:
        own.metrics.waiting.set(service.encoder.waiting)
        own.metrics.cells.set(len(service.database.ids))
    return Response(own.metrics.text(), media_type="text/plain; version=0.0.4")
