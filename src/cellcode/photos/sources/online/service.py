"""What an online photo service is to the rest of this folder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, Protocol

import shapely
from shapely.geometry.base import BaseGeometry

from cellcode.geography import Region
from cellcode.http import RemoteError
from cellcode.photos.sources.online.options import Options
from cellcode.photos.sources.online.quadrants import Ask, Gap, Search
from cellcode.photos.sources.online.record import Record
from cellcode.photos.table.item import Reject

Found = Record | Reject
Redirects = Literal["same host", "anywhere"]
_DEGREE_M = 111_000.0


class Service(Protocol):
    """A place where photos can be searched for and fetched.

    Attributes:
        name: for people.
        source: for the photo table.
        redirects: where the links to its photos may lead.
    """

    name: str
    source: str
    redirects: Redirects

    def find(self, region: Region | None, options: Options) -> Iterator[list[Found]]:
        """Yield the photos of a region and somewhat around it, each once; what is out of reach is a transient reject."""
        ...

    def renew(self, record: Record) -> Record | None:
        """Return a photo with links that have not expired; None where links do not expire.

        Raises:
            MissingError: the photo is there no more.
            RemoteError: its links cannot be asked for.
        """
        ...


def search(
    service: Service, ask: Ask, region: Region, *, limit: int, margin_m: float, max_area_deg2: float = math.inf
) -> Iterator[list[dict[str, Any]] | Reject]:
    """Yield the descriptions of all photos of a region, and a reject for every box that could not be seen through.

    Args:
        margin_m: around the region.
    """
    shape = _widened(region.shape, margin_m)
    for found in Search(ask, shape, limit=limit, max_area_deg2=max_area_deg2).run():
        if isinstance(found, Gap):
            yield reject(service.source, found.box, f"part of the region not listed: {found.reason}", transient=True)
        else:
            yield found


def descriptions(answer: object, key: str, url: str) -> list[dict[str, Any]]:
    """Return the list of objects under a key of a JSON answer.

    Raises:
        RemoteError: there is none: the answer is of another kind than expected.
    """
    found = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise RemoteError(f"{url}: the answer holds no list {key!r}", "unexpected answer")
    return found


def reject(service: str, identifier: object, reason: str, transient: bool = False) -> Reject:
    """Return the reject of a photo of a service, by the name that it has there."""
    return Reject(f"{service}/{str(identifier)[:100]}", None, reason, transient)


def _widened(shape: BaseGeometry, margin_m: float) -> BaseGeometry:
    _, south, _, north = shape.bounds
    shortest = math.cos(math.radians(min(max(abs(south), abs(north)), 89.0)))  # degree of longitude, of one of latitude
    wide = shape.buffer(margin_m / _DEGREE_M / shortest, join_style="mitre")
    return wide.intersection(shapely.box(-180, -90, 180, 90))
