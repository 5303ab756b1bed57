"""Panoramax: photos of public space under open licences, on many instances with one protocol (STAC), without a key."""

import math
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

from cellcode.errors import UsageError
from cellcode.http import RemoteError, redact
from cellcode.photos.reading.capture_time import parse_listed_time
from cellcode.photos.reading.panorama import WHOLE, Area
from cellcode.photos.sources.online.quadrants import Answer, Box
from cellcode.photos.sources.online.record import Found, Kind, Record, Rendition, number, point, reject, safe_name, text
from cellcode.photos.sources.online.source import OnlineSource, descriptions
from cellcode.photos.table.item import Reject, utc

PREFIX = "panoramax:"
CATALOGUE = "https://api.panoramax.xyz/api"
LIMIT = 1000  # servers take up to 10,000, which would be answers of tens of megabytes
_MARGIN_M = 1.0
_SD_PX, _THUMB_PX = 2048, 500


class Panoramax(OnlineSource):
    """The meta-catalogue (`panoramax:`), an instance (`panoramax:https://HOST/api`) or one sequence of it
    (`.../collections/ID`).

    Raises:
        UsageError: the address is none.
    """

    source = "panoramax"
    # GeoVisio sends readers on to where its pictures lie, which may be an object store.
    redirects = "anywhere"

    def prepare(self) -> None:
        """Split the address."""
        address = self.argument.rstrip("/") or CATALOGUE
        if urlsplit(address).scheme not in ("http", "https"):
            raise UsageError(
                f"{PREFIX}{self.argument}: write panoramax: or panoramax:https://HOST/api, of an instance of Panoramax"
            )
        self._api, _, self._collection = address.partition("/collections/")
        self.name = f"Panoramax at {redact(address)}"

    def find(self) -> Iterator[list[Found]]:
        """See `OnlineSource`; a sequence needs no region."""
        options = self.options
        if self._collection:
            yield from self._sequence()
            return
        if self.region is None:
            raise UsageError(f"{PREFIX} needs a region, or the address of one sequence (.../collections/ID)")
        ends = (options.since, options.until)
        interval = "/".join(utc(end).isoformat(timespec="microseconds") + "Z" if end else ".." for end in ends)
        dates = {"datetime": interval} if any(ends) else {}

        def ask(box: Box, limit: int) -> Answer:
            pages = list(self._pages(f"{self._api}/search", {"bbox": box, "limit": limit, **dates}))
            return Answer([feature for page in pages for feature in page], whole=len(pages) > 1)

        for found in self.search(ask, self.region, limit=LIMIT, margin_m=_MARGIN_M):
            yield [found] if isinstance(found, Reject) else [_record(feature, self._api) for feature in found]

    def _sequence(self) -> Iterator[list[Found]]:
        url, pages, photos = f"{self._api}/collections/{self._collection}/items", 0, 0
        for page in self._pages(url, {"limit": LIMIT}):
            pages, photos = pages + 1, photos + len(page)
            yield [_record(feature, self._api) for feature in page]
        if pages == 1 and photos >= LIMIT:
            rest = "part of the sequence not listed: the answer is full and names no next page"
            yield [reject(self.source, self._collection, rest, transient=True)]

    def _pages(self, url: str, params: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
        """Yield the photos of an answer and of those that its links name as next, until one brings nothing new."""
        asked, seen = set[str](), set[str]()
        answer = self.client.json(url, params)
        while True:
            found = {str(feature.get("id")): feature for feature in descriptions(answer, "features", redact(url))}
            new = found.keys() - seen
            seen |= new
            yield [feature for name, feature in found.items() if name in new]
            if (link := _next(answer)) is None:
                return
            # A server behind a proxy may not know that it is asked by https.
            following = urlsplit(urljoin(url, link))._replace(scheme=urlsplit(url).scheme).geturl()
            if urlsplit(following).netloc != urlsplit(url).netloc:
                raise RemoteError(
                    f"{redact(url)}: its next page is on another host, {urlsplit(following).hostname}",
                    "redirect to another host",
                    lasting=True,
                )
            if following in asked:
                raise RemoteError(
                    f"{redact(following)}: the next page is this page again", "endless pages", lasting=True
                )
            if not new:
                return
            asked.add(following)
            url, answer = following, self.client.json(following)


def _next(answer: dict[str, Any]) -> str | None:
    """Address of the next page; one that needs POST is none."""
    links = answer.get("links")
    for link in map(_dict, links if isinstance(links, list) else []):
        if link.get("rel") == "next" and link.get("method", "GET") == "GET":
            return text(link.get("href"))
    return None


def _record(feature: dict[str, Any], api: str) -> Found:
    """Read one item; every field but the position and a picture may be missing."""
    identifier = safe_name(feature.get("id"))
    if identifier is None:
        return reject(Panoramax.source, feature.get("id"), "an identifier that cannot name a file")
    properties, position = _dict(feature.get("properties")), point(feature.get("geometry"))
    camera = _dict(properties.get("pers:interior_orientation"))
    kind = _kind(camera)
    renditions = _renditions(feature, kind, camera, api)
    if position is None or not renditions:
        return reject(Panoramax.source, identifier, "no position" if position is None else "no link to a picture")
    heading = number(properties.get("view:azimuth"))
    return Record(
        id=identifier,
        lat_deg=position[0],
        lon_deg=position[1],
        kind=kind,
        renditions=renditions,
        heading_deg=None if heading is None else heading % 360,
        focal=_focal(camera),
        pitch_deg=number(properties.get("pers:pitch")) or 0.0,
        roll_deg=number(properties.get("pers:roll")) or 0.0,
        area=_area(camera) if kind == "panorama" else WHOLE,
        captured_at=_date(properties.get("datetime")),
        sequence=text(feature.get("collection")),
        device=" ".join(filter(None, (text(camera.get(f"camera_{part}")) for part in ("manufacturer", "model"))))
        or None,
        licence=text(properties.get("license")),
        attribution=_producers(feature, properties),
        accuracy_m=number(properties.get("quality:horizontal_accuracy")),
    )


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _kind(camera: dict[str, Any]) -> Kind:
    fov = number(camera.get("field_of_view")) or 0.0
    return "panorama" if fov == 360 else "fisheye" if fov >= 180 else "perspective"


def _area(camera: dict[str, Any]) -> Area:
    """The part of a panorama that there is: given by the pixels that are missing left, above, right and below."""
    sides, missing = _numbers(camera, "sensor_array_dimensions", 2), _numbers(camera, "visible_area", 4)
    if sides is None or missing is None or min(sides) == 0:
        return WHOLE
    (width, height), (left, top, right, bottom) = sides, missing
    area = Area(left / width, top / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    return area if min(area.width, area.height) > 0 else WHOLE


def _numbers(camera: dict[str, Any], name: str, count: int) -> list[float] | None:
    """A list of `count` numbers, none of them negative; None if there is no such list."""
    values = camera.get(name)
    found = [number(value) for value in values] if isinstance(values, list) else []
    numbers = [value for value in found if value is not None and value >= 0]
    return numbers if len(numbers) == len(found) == count else None


def _focal(camera: dict[str, Any]) -> float | None:
    """Of the field of view, which is that of the longer side: the server computes it for 36 mm film."""
    fov = number(camera.get("field_of_view"))
    return 0.5 / math.tan(math.radians(fov) / 2) if fov is not None and 0 < fov < 180 else None


def _renditions(feature: dict[str, Any], kind: Kind, camera: dict[str, Any], api: str) -> tuple[Rendition, ...]:
    """Pictures of the item, narrowest first.

    Of a panorama, the thumbnail shows a part only. The "sd" picture is always 2048 px wide: of a narrower photo it is
    blown up, so the full size is taken instead.
    """
    sides = _numbers(camera, "sensor_array_dimensions", 2)
    width = round(sides[0] * _area(camera).width) if sides else None
    links = {name: text(_dict(asset).get("href")) for name, asset in _dict(feature.get("assets")).items()}
    found = {name: urljoin(api + "/", link) for name, link in links.items() if link is not None}
    sizes: dict[str, int | None] = {"thumb": _THUMB_PX, "sd": _SD_PX, "hd": width}
    if kind == "panorama" or (width is not None and width < _THUMB_PX):
        del sizes["thumb"]
    if width is not None and width <= _SD_PX and (sizes.keys() - {"sd"}) & found.keys():
        del sizes["sd"]
    return tuple(Rendition(width_px, found[name]) for name, width_px in sizes.items() if name in found)


def _producers(feature: dict[str, Any], properties: dict[str, Any]) -> str | None:
    """Names of who made the photo, as the licences ask."""
    providers = feature.get("providers")
    names = [text(_dict(each).get("name")) for each in (providers if isinstance(providers, list) else [])]
    distinct = dict.fromkeys([*names, text(properties.get("geovisio:producer"))])
    return ", ".join(name for name in distinct if name) or None


def _date(value: object) -> datetime | None:
    try:
        return parse_listed_time(value) if isinstance(value, str) else None
    except ValueError:
        return None
