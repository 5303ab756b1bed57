"""From what the search found to what the service answers."""

import asyncio
from typing import Any

import numpy as np

from cellcode.geography import Region, distance
from cellcode.search import Answer
from cellcode.search.together import fuse_queries
from cellcode.serving.metrics import Metrics
from cellcode.serving.problems import Problem
from cellcode.serving.service import Question, Seen, Service
from cellcode.serving.uploads import Photo


async def see_all(service: Service, photos: list[Photo], metrics: Metrics) -> list[Seen | Problem]:
    """Decode and embed photos side by side; one that cannot be read gives its problem.

    Raises:
        Problem: too many photos wait, or none can be read: then that of the first.
    """
    found: list[Seen | Problem] = []
    for result in await asyncio.gather(*(service.see(photo) for photo in photos), return_exceptions=True):
        if isinstance(result, Problem) and result.code != "overloaded":
            metrics.photos.labels(result.code).inc()
            found.append(result)
        elif isinstance(result, BaseException):
            raise result
        else:
            metrics.photos.labels("answered").inc()
            found.append(result)
    if all(isinstance(each, Problem) for each in found) and isinstance(found[0], Problem):
        raise found[0]
    return found


async def one(
    service: Service, seen: Seen, top: int, region: Region | None, heading_deg: float | None, heat: bool = False
) -> dict[str, Any]:
    """Answer one embedded photo; `schemas.PhotoAnswer`."""
    answer = await service.answer(Question(seen.name, seen.query, top, region))
    return dressed(answer, [seen], heading_deg) | {"heat": await service.heat(seen.query, region) if heat else None}


async def fused(
    service: Service,
    seen: list[Seen],
    unreadable: list[dict[str, Any]],
    top: int,
    region: Region | None,
    heading_deg: float | None,
    heat: bool,
) -> dict[str, Any]:
    """Answer embedded photos as one; `schemas.FusedAnswer`."""
    answer = await service.fuse(seen, top, region)
    query = fuse_queries(np.stack([each.query for each in seen]))
    return dressed(answer, seen, heading_deg) | {
        "unreadable": unreadable,
        "heat": await service.heat(query, region) if heat else None,
    }


def dressed(answer: Answer, seen: list[Seen], heading_deg: float | None) -> dict[str, Any]:
    """Return an answer's JSON with what the request and the files say."""
    return answer.to_json() | {"heading_deg": heading_deg, "metadata": _metadata(answer, seen), "heat": None}


def unreadable(name: str, problem: Problem) -> dict[str, Any]:
    """Return `schemas.Unreadable`."""
    return {"file": name, "error": problem.facts.model_dump()}


def _metadata(answer: Answer, seen: list[Seen]) -> dict[str, Any] | None:
    for each in seen:
        if each.position is not None:
            lat, lon, heading = each.position
            apart = float(distance.haversine_m(answer.lat, answer.lon, lat, lon))
            return {"lat": lat, "lon": lon, "heading_deg": heading, "distance_m": apart}
    return None
