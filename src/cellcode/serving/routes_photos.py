"""Routes that take photos: locate, verify, batch."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pydantic
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from cellcode.geography import Region
from cellcode.search import claims
from cellcode.serving import answers, documents, guard, regions, state, uploads
from cellcode.serving.problems import Problem
from cellcode.serving.schemas import Heading, LocateRequest, LocateResponse, Top, VerifyRequest, VerifyResponse
from cellcode.serving.service import Question, Seen, Service
from cellcode.serving.uploads import Photo

router = APIRouter(prefix="/v1", dependencies=[Depends(state.admit)])


@router.post("/locate", **documents.photos(LocateRequest, LocateResponse))
async def locate(request: Request) -> Response:
    """Locate photos.

    Each photo is answered on its own, or all as one with `fuse`. A photo that cannot be read has its error in its place.
    """
    own = state.of(request)
    async with own.work(request, own.settings.request_seconds) as service:
        asked, photos = await uploads.read(request, own.settings, LocateRequest)
        own.charge(request, len(photos))
        region = regions.parse(asked.region, own.settings.region_vertices, service.database.region_bounds)
        seen = await answers.see_all(service, photos, own.metrics)
        names = [photo.name for photo in photos]
        if asked.fuse:
            failed = [
                answers.unreadable(name, each)
                for name, each in zip(names, seen, strict=True)
                if isinstance(each, Problem)
            ]
            good = [each for each in seen if not isinstance(each, Problem)]
            found = [await answers.fused(service, good, failed, asked.top, region, asked.heading_deg, asked.heat)]
        else:

            async def answered(name: str, each: Seen | Problem) -> dict[str, Any]:
                if isinstance(each, Problem):
                    return answers.unreadable(name, each)
                return await answers.one(service, each, asked.top, region, asked.heading_deg, asked.heat)

            found = await asyncio.gather(*map(answered, names, seen))
        return JSONResponse({"answers": found})


@router.post("/verify", **documents.photos(VerifyRequest, VerifyResponse, "photo"))
async def verify(request: Request) -> Response:
    """Return how plausible it is that a photo was taken at a place.

    The claim is compared with all cells of the database; a `region` restricts the answer alone.
    """
    own = state.of(request)
    async with own.work(request, own.settings.request_seconds) as service:
        asked, photos = await uploads.read(request, own.settings, VerifyRequest, "photo")
        own.charge(request, 1)
        region = regions.parse(asked.region, own.settings.region_vertices, service.database.region_bounds)
        seen = (await answers.see_all(service, photos, own.metrics))[0]
        assert not isinstance(seen, Problem)  # the only photo: its problem was raised
        answer = await service.answer(Question(seen.name, seen.query, asked.top, region))
        judged = await service.search(
            lambda: claims.verification(service.locator, answer, seen.query, asked.lat, asked.lon)
        )
        crops = {"claim": judged.claim.cell, "answer": answer.cell} if service.imagery is not None else {}
        return JSONResponse(
            judged.to_json()
            | {
                "answer": answers.dressed(answer, [seen], asked.heading_deg),
                "aerial": {name: _crop(crops.get(name)) for name in ("claim", "answer")},
            }
        )


class BatchSettings(pydantic.BaseModel):
    """The fields of a batch; they come before its photos."""

    model_config = pydantic.ConfigDict(extra="forbid")

    top: Top = 5
    region: str | None = None
    heading_deg: Heading | None = None


@router.post("/batch", **documents.batch(BatchSettings))
async def batch(request: Request) -> Response:
    """Locate many photos: one line of JSON for each, in their order and as soon as it is known.

    Text fields come before the photos. The body is never held as a whole, so it may be large.
    """
    own = state.of(request)
    lines: asyncio.Queue[asyncio.Task[dict[str, Any]] | Problem | None] = asyncio.Queue()

    async def feed() -> None:
        try:
            async with own.work(request, own.settings.batch_seconds) as service:
                await _feed(request, service, lines)
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


async def _feed(
    request: Request, service: Service, lines: asyncio.Queue[asyncio.Task[dict[str, Any]] | Problem | None]
) -> None:
    """Start on each photo as it arrives; a few at a time, so that memory does not grow with the batch."""
    own, fields = state.of(request), {}
    window = asyncio.Semaphore(2 * own.settings.encoder_batch)
    at_work: set[asyncio.Task[dict[str, Any]]] = set()
    settings: BatchSettings | None = None
    region: Region | None = None

    async def answered(photo: Photo, top: int, heading_deg: float | None) -> dict[str, Any]:
        try:
            seen = await service.see(photo)
            own.metrics.photos.labels("answered").inc()
            return await answers.one(service, seen, top, region, heading_deg)
        except Problem as problem:
            own.metrics.photos.labels(problem.code).inc()
            return answers.unreadable(photo.name, problem)
        finally:
            window.release()

    async for part in uploads.parts(request, own.settings, own.settings.batch_photos):
        if not isinstance(part, Photo):
            if settings is not None:
                raise Problem("bad_request", f"the field {part[0]!r} comes after a photo; send fields first")
            fields[part[0]] = part[1]
            continue
        if settings is None:
            settings = uploads.checked(BatchSettings, fields)
            region = regions.parse(settings.region, own.settings.region_vertices, service.database.region_bounds)
        own.charge(request, 1)
        await window.acquire()
        task = asyncio.create_task(answered(part, settings.top, settings.heading_deg))
        at_work.add(task)
        task.add_done_callback(at_work.discard)
        await lines.put(task)
    if settings is None:
        raise Problem("bad_request", "no file called photo was sent")
    await asyncio.gather(*at_work)


async def _written(
    first: asyncio.Task[dict[str, Any]] | None, lines: asyncio.Queue[asyncio.Task[dict[str, Any]] | Problem | None]
) -> AsyncIterator[bytes]:
    item: asyncio.Task[dict[str, Any]] | Problem | None = first
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


def _crop(token: str | None) -> str | None:
    return None if token is None else f"/v1/cells/{token}/aerial.jpg"
