"""Mapillary, version 4 of its API: photos of anyone under CC BY-SA 4.0, for who has a token."""

import ipaddress
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from cellcode.errors import InputError, UsageError
from cellcode.http import MissingError, RemoteError
from cellcode.photos.reading.capture_time import from_epoch
from cellcode.photos.sources.online.quadrants import Answer, Box
from cellcode.photos.sources.online.record import Found, Kind, Record, Rendition, number, point, reject, safe_name, text
from cellcode.photos.sources.online.source import OnlineSource, descriptions
from cellcode.photos.table.item import Reject, utc

PREFIX = "mapillary:"
GRAPH = "https://graph.mapillary.com"
TOKEN_VARIABLE = "MAPILLARY_TOKEN"
LICENCE = "CC-BY-SA-4.0"
LIMIT = 1000  # 2000 are allowed, and often fail
MAX_AREA_DEG2 = 0.0099  # "less than 0.01"
_MARGIN_M = 50.0  # positions are corrected after the upload: which of the two a box is compared with is not documented
_THUMBS = (("thumb_1024_url", 1024), ("thumb_2048_url", 2048))
_FIELDS = (
    "id,geometry,computed_geometry,compass_angle,computed_compass_angle,captured_at,sequence,camera_type,camera_parameters,"
    "is_pano,make,model,width,height,quality_score,creator,thumb_1024_url,thumb_2048_url,thumb_original_url"
)
_TOKEN_REASONS = ("bad request", "refused")  # of answers that a token may be to blame for
_MIN_FOCAL = 0.1  # a field of view of 157 degrees


class Mapillary(OnlineSource):
    """`mapillary:`, with an access token in the environment variable MAPILLARY_TOKEN.

    The token is sent to the API only, not to the hosts of pictures. `mapillary:http://127.0.0.1:PORT` asks a server on this
    machine instead; another host is refused, as it would be given the token.

    Raises:
        InputError: there is no token.
        UsageError: another host than a local one.
    """

    name = "Mapillary"
    source = "mapillary"

    def prepare(self) -> None:
        """Read the token."""
        address = self.argument.rstrip("/")
        if address and not _is_local(address):
            raise UsageError(
                f"{PREFIX} takes no address except one of a server on this machine: your token would be sent to it"
            )
        self._graph = address or GRAPH
        self._headers = {"Authorization": f"OAuth {_token()}"}

    def find(self) -> Iterator[list[Found]]:
        """See `OnlineSource`."""
        options = self.options
        if self.region is None:
            raise UsageError(f"{PREFIX} needs a region")
        self._check_token()
        # Until the end of the second that it is in; what is later is left out when it is here.
        until = options.until and options.until + timedelta(seconds=1)
        ends = {"start_captured_at": options.since, "end_captured_at": until}
        dates = {name: utc(end).isoformat(timespec="seconds") + "Z" for name, end in ends.items() if end}

        def ask(box: Box, limit: int) -> Answer:
            return Answer(self._images({"bbox": box, "limit": limit, "fields": _FIELDS, **dates}))

        for found in self.search(ask, self.region, limit=LIMIT, margin_m=_MARGIN_M, max_area_deg2=MAX_AREA_DEG2):
            yield [found] if isinstance(found, Reject) else [_record(image) for image in found]

    def renew(self, record: Record) -> Record:
        """See `OnlineSource`: links to pictures expire after some days."""
        try:
            image = self.client.json(f"{self._graph}/{record.id}", {"fields": _FIELDS}, self._headers)
        except RemoteError as error:
            if error.reason not in _TOKEN_REASONS:
                raise
            self._check_token()
            if error.reason == "refused":
                raise
            # It is not the token, so it is the photo.
            raise MissingError(f"Mapillary has no photo {record.id} any more", 404) from None
        renditions = _renditions(image) if isinstance(image, dict) else ()
        if not renditions:
            raise MissingError(f"Mapillary has no picture of {record.id} any more", 404)
        return replace(record, renditions=renditions)

    def _images(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        url = f"{self._graph}/images"
        return descriptions(self.client.json(url, params, self._headers), "data", url)

    def _check_token(self) -> None:
        """Ask for one photo of a small box; after that, a refusal means something else."""
        try:
            self._images({"bbox": Box(0.0, 0.0, 1e-4, 1e-4), "limit": 1, "fields": "id"})
        except RemoteError as error:
            if error.reason in _TOKEN_REASONS:
                raise RemoteError(
                    f"Mapillary refuses the token in {TOKEN_VARIABLE} ({error.status}); it may have expired, make another",
                    "token refused",
                    error.status,
                ) from None
            raise


def _token() -> str:
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if not token:
        raise InputError(
            f"{PREFIX} needs an access token in the environment variable {TOKEN_VARIABLE}; "
            "make one at https://www.mapillary.com/dashboard/developers"
        )
    if not re.fullmatch(r"[!-~]+", token):  # the error of a header that cannot be sent would show it
        raise InputError(f"the token in {TOKEN_VARIABLE} has characters that no token has; copy it again")
    return token


def _is_local(address: str) -> bool:
    parts = urlsplit(address)
    try:
        local = parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
    return local and parts.scheme in ("http", "https")


def _record(image: dict[str, Any]) -> Found:
    """Read one photo: corrected position and direction where there are any, else those of the camera."""
    identifier = safe_name(image.get("id"))
    if identifier is None:
        return reject(Mapillary.source, image.get("id"), "an identifier that cannot name a file")
    position = point(image.get("computed_geometry")) or point(image.get("geometry"))
    renditions = _renditions(image)
    if position is None or not renditions:
        return reject(Mapillary.source, identifier, "no position" if position is None else "no link to a picture")
    heading = _heading(image.get("computed_compass_angle"))
    return Record(
        id=identifier,
        lat_deg=position[0],
        lon_deg=position[1],
        kind=_kind(image),
        renditions=renditions,
        heading_deg=_heading(image.get("compass_angle")) if heading is None else heading,
        focal=_focal(image),
        captured_at=_date(image.get("captured_at")),
        sequence=text(image.get("sequence")),
        device=" ".join(filter(None, (text(image.get("make")), text(image.get("model"))))) or None,
        licence=LICENCE,
        attribution=_creator(image.get("creator")),
        quality=number(image.get("quality_score")),
    )


def _renditions(image: dict[str, Any]) -> tuple[Rendition, ...]:
    stated = number(image.get("width"))
    width = None if stated is None else int(stated)
    sizes = {name: px if width is None else min(px, width) for name, px in _THUMBS} | {"thumb_original_url": width}
    return tuple(Rendition(px, url) for name, px in sizes.items() if (url := text(image.get(name))) is not None)


def _kind(image: dict[str, Any]) -> Kind:
    camera = text(image.get("camera_type")) or ("spherical" if image.get("is_pano") is True else "")
    if "fisheye" in camera:
        return "fisheye"
    return "panorama" if camera in ("spherical", "equirectangular") else "perspective"


def _focal(image: dict[str, Any]) -> float | None:
    """First of the camera's parameters, which is in units of the longer side, as OpenSfM has it."""
    parameters = image.get("camera_parameters")
    focal = number(parameters[0]) if isinstance(parameters, list) and parameters else None
    return focal if focal is not None and focal > _MIN_FOCAL and _kind(image) == "perspective" else None


def _heading(value: object) -> float | None:
    angle = number(value)
    return angle % 360 if angle is not None and 0 <= angle <= 360 else None


def _date(value: object) -> datetime | None:
    milliseconds = number(value)
    try:
        return from_epoch(milliseconds) if milliseconds else None
    except ValueError:
        return None


def _creator(creator: object) -> str:
    """Who is to be named, with a link, as the licence asks."""
    fields = creator if isinstance(creator, dict) else {}
    if name := text(fields.get("username")):
        return f"{name} on Mapillary, https://www.mapillary.com/app/user/{name}"
    return "Mapillary contributors, https://www.mapillary.com"
