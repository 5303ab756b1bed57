"""Routes that take photos: locate, verify, batch; and from what the search found to what they answer."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pydantic
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from cellcode.geography import Region, distance
from cellcode.search import Answer, claims
from cellcode.search.together import fuse_queries
from cellcode.serving import guard, schemas, state, uploads
from cellcode.serving.intake import Intake
from cellcode.serving.problems import Problem
from cellcode.serving.schemas import Heading, LocateRequest, LocateResponse, Top, VerifyRequest, VerifyResponse
from cellcode.serving.service import Seen, Service
from cellcode.serving.uploads import Photo

router = APIRouter(prefix="/v1", dependencies=[Depends(state.admit)])
Lines = asyncio.Queue[asyncio.Task[dict[str, Any]] | Problem | None]  # of a batch; None: it has ended


@router.post("/locate", **schemas.photos(LocateRequest, LocateResponse))
async def locate(request: Request) -> Response:
    """Locate photos.

    Each photo is answered on its own, or all as one with `fuse`. A photo that cannot be read has its error in its place.
    """
    own = state.of(request)
    async with own.intake(request, own.settings.request_seconds) as intake:
        asked, photos = await uploads.read(request, intake, LocateRequest)
        return JSONResponse({"answers": await _located(request, asked, photos)})


async def _located(request: Request, asked: LocateRequest, photos: list[Photo]) -> list[dict[str, Any]]:
    own = state.of(request)
    async with own.work() as service:
        own.rates.take(request.state.asker, len(photos))
        region = uploads.region_of(asked.region, own.settings.region_vertices, service.database.region_bounds)
        seen = await see_all(service, photos, own.metrics)
        named = [(photo.name, each) for photo, each in zip(photos, seen, strict=True)]
        if asked.fuse:
            failed = [unreadable(name, each) for name, each in named if isinstance(each, Problem)]
            good = [each for each in seen if not isinstance(each, Problem)]
            answer = await service.fuse(good, asked.top, region)
            found = [dressed(answer, good, asked.heading_deg) | {"unreadable": failed}]
            if asked.heat:
                query = fuse_queries(np.stack([each.query for each in good]))
                found[0]["heat"] = await service.heat(query, region)
        else:

            async def answered(name: str, each: Seen | Problem) -> dict[str, Any]:
                if isinstance(each, Problem):
                    return unreadable(name, each)
                return await one(service, each, asked.top, region, asked.heading_deg, asked.heat)

            found = await asyncio.gather(*(answered(name, each) for name, each in named))
        return found


@router.post("/verify", **schemas.photos(VerifyRequest, VerifyResponse, "photo"))
async def verify(request: Request) -> Response:
    """Return how plausible it is that a photo was taken at a place.

    The claim is compared with all cells of the database; a `region` restricts the answer alone.
    """
    own = state.of(request)
    async with own.intake(request, own.settings.request_seconds) as intake:
        asked, photos = await uploads.read(request, intake, VerifyRequest, "photo")
        return JSONResponse(await _verified(request, asked, photos))


async def _verified(request: Request, asked: VerifyRequest, photos: list[Photo]) -> dict[str, Any]:
    own = state.of(request)
    async with own.work() as service:
        own.rates.take(request.state.asker, 1)
        region = uploads.region_of(asked.region, own.settings.region_vertices, service.database.region_bounds)
        seen = (await see_all(service, photos, own.metrics))[0]
        assert not isinstance(seen, Problem)  # the only photo: its problem was raised
        answer = await service.answer(seen, asked.top, region)
        place = asked.lat, asked.lon
        judged = await service.search(lambda: claims.verification(service.locator, answer, seen.query, *place))
        crops = {"claim": judged.claim.cell, "answer": answer.cell}
        aerial = {name: service.crop_path(token) for name, token in crops.items()}
        shown = {"answer": dressed(answer, [seen], asked.heading_deg), "aerial": aerial}
        return judged.to_json() | shown


class BatchSettings(pydantic.BaseModel):
    """The fields of a batch; they come before its photos."""

    model_config = pydantic.ConfigDict(extra="forbid")

    top: Top = 5
    region: str | None = None
    heading_deg: Heading | None = None


@router.post("/batch", **schemas.batch(BatchSettings))
async def batch(request: Request) -> Response:
    """Locate many photos: one line of JSON for each, in their order and as soon as it is known.

    Text fields come before the photos. The body is never held as a whole, so it may be large.
    """
    own = state.of(request)
    lines: Lines = asyncio.Queue()

    async def feed() -> None:
        try:
            async with own.intake(request, own.settings.batch_seconds) as intake, own.holder.lease() as service:
                await _feed(request, service, intake, lines)
            await lines.put(None)
        except Problem as problem:
            await lines.put(problem)
        except ClientDisconnect:
            await lines.put(None)
        except Exception as error:
            guard.logger.error("unexpected %s", guard.where(error))
            await lines.put(Problem("internal", "the batch ended early, by an unexpected error"))

    feeder = asyncio.create_task(feed())
    first = await lines.get()
    if isinstance(first, Problem):
        raise first
    return _Lines(_written(first, lines), feeder)


async def _feed(request: Request, service: Service, intake: Intake, lines: Lines) -> None:
    """Start on each photo as it arrives; a few at a time, so that memory does not grow with the batch."""
    own, fields = state.of(request), {}
    window = asyncio.Semaphore(2 * own.settings.encoder_batch)
    at_work: set[asyncio.Task[dict[str, Any]]] = set()
    settings: BatchSettings | None = None
    region: Region | None = None

    async def answered(photo: Photo, top: int, heading_deg: float | None) -> dict[str, Any]:
        try:
            async with own.work(batch=True):
                seen = await service.see(photo)
                own.metrics.photos.labels("answered").inc()
                return await one(service, seen, top, region, heading_deg)
        except Problem as problem:
            own.metrics.photos.labels(problem.code).inc()
            return unreadable(photo.name, problem)
        finally:
            intake.give(len(photo.data))
            window.release()

    async for part in uploads.parts(request, intake, own.settings.batch_photos):
        if not isinstance(part, Photo):
            if settings is not None:
                raise Problem("bad_request", f"the field {part[0]!r} comes after a photo; send fields first")
            fields[part[0]] = part[1]
            continue
        if settings is None:
            settings = uploads.checked(BatchSettings, fields)
            region = uploads.region_of(settings.region, own.settings.region_vertices, service.database.region_bounds)
        own.rates.take(request.state.asker, 1)
        await window.acquire()
        task = asyncio.create_task(answered(part, settings.top, settings.heading_deg))
        at_work.add(task)
        task.add_done_callback(at_work.discard)
        await lines.put(task)
    if settings is None:
        raise Problem("bad_request", "no file called photo was sent")
    await asyncio.gather(*at_work)


async def _written(item: asyncio.Task[dict[str, Any]] | Problem | None, lines: Lines) -> AsyncIterator[bytes]:
    while item is not None:
        value = {"error": item.facts.model_dump()} if isinstance(item, Problem) else await item
        yield json.dumps(value, allow_nan=False).encode() + b"\n"
        if isinstance(item, Problem):
            return
        item = await lines.get()


class _Lines(Response):
    """Lines as they come. Unlike Starlette's streaming it leaves the rest of the request's body to who reads it."""

    media_type = "application/x-ndjson"

    def __init__(self, lines: AsyncIterator[bytes], feeder: asyncio.Task[None]) -> None:
        # Already encoded, as it were: compression would hold lines back.
        super().__init__(headers={"content-encoding": "identity", "cache-control": "no-store"})
        del self.headers["content-length"]
        self.lines, self.feeder = lines, feeder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for line in self.lines:
                await send({"type": "http.response.body", "body": line, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self.feeder.cancel()


async def see_all(service: Service, photos: list[Photo], metrics: guard.Metrics) -> list[Seen | Problem]:
    """Decode and embed photos side by side; one that cannot be read gives its problem.

    Raises:
        Problem: too many photos wait, or none can be read: then that of the first.
    """
    found: list[Seen | Problem] = []
    for result in await asyncio.gather(*(service.see(photo) for photo in photos), return_exceptions=True):
        if isinstance(result, BaseException) and not (isinstance(result, Problem) and result.code != "overloaded"):
            raise result
        metrics.photos.labels(result.code if isinstance(result, Problem) else "answered").inc()
        found.append(result)
    if all(isinstance(each, Problem) for each in found) and isinstance(found[0], Problem):
        raise found[0]
    return found


async def one(
    service: Service, seen: Seen, top: int, region: Region | None, heading_deg: float | None, heat: bool = False
) -> dict[str, Any]:
    """Answer one embedded photo; `schemas.PhotoAnswer`."""
    answer = await service.answer(seen, top, region)
    return dressed(answer, [seen], heading_deg) | {"heat": await service.heat(seen.query, region) if heat else None}


def dressed(answer: Answer, seen: list[Seen], heading_deg: float | None) -> dict[str, Any]:
    """Return an answer's JSON with what the request and the files say: of them the first with a position."""
    metadata = None
    if (position := next((each.position for each in seen if each.position is not None), None)) is not None:
        lat, lon, heading = position
        apart = float(distance.haversine_m(answer.lat, answer.lon, lat, lon))
        metadata = {"lat": lat, "lon": lon, "heading_deg": heading, "distance_m": apart}
    return answer.to_json() | {"heading_deg": heading_deg, "metadata": metadata, "heat": None}


def unreadable(name: str, problem: Problem) -> dict[str, Any]:
    """Return `schemas.Unreadable`."""
    return {"file": name, "error": problem.facts.model_dump()}
