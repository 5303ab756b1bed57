"""Routes that describe the database and cut its imagery."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response

import cellcode
from cellcode.errors import InputError
from cellcode.geography import s2
from cellcode.geography.s2.ranges import rows_of_ids
from cellcode.serving import documents, state
from cellcode.serving.imagery import Imagery
from cellcode.serving.problems import Problem
from cellcode.serving.schemas import CellFacts, DatabaseFacts, PolygonFacts
from cellcode.serving.service import Service

router = APIRouter(prefix="/v1", dependencies=[Depends(state.admit)])
Token = Annotated[str, Path(description="S2 token of a cell", pattern="^[0-9a-f]{1,16}$")]
KEPT = "private, max-age=3600"


def _picture(kind: str) -> dict[int | str, dict[str, Any]]:
    shown: dict[int | str, dict[str, Any]] = {
        200: {"content": {kind: {"schema": {"type": "string", "format": "binary"}}}}
    }
    return {**shown, **documents.errors("not_found", "bad_request", "overloaded")}


@router.get("/database", responses=documents.errors("overloaded"))
async def database(request: Request) -> DatabaseFacts:
    """Return what is searched, under which licences, and the limits of requests."""
    own = state.of(request)
    async with own.holder.lease() as service:
        return _facts(service, own)


@router.get("/cells/{token}", responses=documents.errors("not_found", "bad_request", "overloaded"))
async def cell(request: Request, token: Token) -> CellFacts:
    """Describe a cell."""
    async with state.of(request).holder.lease() as service:
        row, found = _row(service, token), service.database.facts
        lat, lon = s2.cell_centers(service.database.ids[row : row + 1])
        corners = s2.cell_polygons(service.database.ids[row : row + 1])[0]
        ring = [(float(lon_deg), float(lat_deg)) for lat_deg, lon_deg in [*corners, corners[0]]]
        return CellFacts(
            cell=token,
            level=service.database.level,
            lat=float(lat[0]),
            lon=float(lon[0]),
            polygon=PolygonFacts(coordinates=[ring]),
            has_prototype=bool(found.has_prototype[row]),
            has_aerial=bool(found.has_aerial[row]),
            training_photos=int(found.photos[row]),
            aerial=f"/v1/cells/{token}/aerial.jpg" if service.imagery is not None else None,
        )


@router.get("/cells/{token}/aerial.jpg", responses=_picture("image/jpeg"), response_class=Response)
async def crop(request: Request, token: Token, size_px: Annotated[int, Query(ge=16, le=1024)] = 256) -> Response:
    """Return the imagery around a cell, north up and two cells wide."""
    async with state.of(request).holder.lease() as service:
        row, level = _row(service, token), service.database.level
        lat, lon = s2.cell_centers(service.database.ids[row : row + 1])
        return await _cut(
            service, "image/jpeg", lambda imagery: imagery.cell(float(lat[0]), float(lon[0]), level, size_px)
        )


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


def _row(service: Service, token: str) -> int:
    try:
        ids = s2.from_tokens([token])
    except InputError as error:
        raise Problem("not_found", str(error)) from None
    row = int(rows_of_ids(service.database.ids, ids)[0])
    if row < 0 or s2.tokens(ids)[0] != token:
        raise Problem("not_found", f"the database has no cell {token}")
    return row


def _facts(service: Service, own: state.State) -> DatabaseFacts:
    database, manifest, settings = service.database, service.database.manifest, own.settings
    calibration, imagery = database.calibration, service.imagery
    values: dict[str, Any] = {
        "name": manifest["run"]["name"],
        "identity": database.identity,
        "version": cellcode.__version__,
        "levels": manifest["levels"],
        "cell_edge_m": s2.mean_edge_m(database.level),
        "cells": manifest["cells"],
        "bounds": database.region_bounds,
        "training_photos": manifest["training_photos"],
        "licences": manifest["licences"],
        "attributions": manifest["attributions"],
        "tells_outside": calibration.inside is not None or calibration.outside_score is not None,
        "imagery": None
        if imagery is None
        else {
            "attribution": imagery.source.attribution,
            "date": imagery.source.date,
            "min_zoom": imagery.min_zoom,
            "max_zoom": imagery.max_zoom,
        },
        "basemap": None if settings.basemap is None else settings.basemap.model_dump(),
        "keys_needed": bool(own.keys),
        "limits": settings.model_dump(),
    }
    return DatabaseFacts.model_validate(values)
