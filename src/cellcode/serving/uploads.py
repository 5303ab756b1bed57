"""What is in requests: bodies, read in bounded memory and never written to disk, and regions."""

import base64
import binascii
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pydantic
import shapely
from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from cellcode.errors import CellcodeError
from cellcode.geography import Region, parse_number
from cellcode.serving.intake import FIELD_BYTES, Intake
from cellcode.serving.problems import Problem, invalid
from cellcode.serving.schemas import EncodedPhoto
from cellcode.serving.settings import Settings

Model = TypeVar("Model", bound=pydantic.BaseModel)
FIELDS = 16
JSON_PARTS = 200_000  # a region has thousands, photos none; parsing millions would hold all other requests up
Bounds = tuple[float, float, float, float]


@dataclass(frozen=True)
class Photo:
    """A photo of a request: its name as the client calls it, and the bytes of its file."""

    name: str
    data: bytes


@dataclass
class _Part:
    """A part of a multipart body while it arrives."""

    headers: dict[str, bytes] = field(default_factory=dict)
    header: bytes = b""
    value: bytes = b""
    name: str = ""
    file: str | None = None  # its name, where the part is a file
    body: bytearray = field(default_factory=bytearray)
    limit: int = FIELD_BYTES


async def parts(
    request: Request, intake: Intake, most_photos: int, most_bytes: int | None = None
) -> AsyncIterator[Photo | tuple[str, str]]:
    """Yield the photos and the text fields (name, value) of a multipart body as they arrive.

    Args:
        most_photos: photos that are taken.
        most_bytes: of all of them; None: any number.

    Raises:
        Problem: no multipart body, a damaged one, or more than the limits.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Problem("bad_request", "the body must be multipart/form-data with a boundary")
    done: list[_Part] = []
    reader = _Reader(done, intake.settings, most_photos, most_bytes)
    try:
        parser = MultipartParser(options[b"boundary"], reader.callbacks())
        async for chunk in intake.chunks(request):
            problem: Problem | None = None
            try:
                parser.write(chunk)
            except Problem as error:  # what came before it counts
                problem = error
            if done:
                intake.next_part()
            for part in done:
                yield _value(part)
            done.clear()
            if problem is not None:
                raise problem
            intake.check_part()
        parser.finalize()
    except MultipartParseError as error:
        raise Problem("bad_request", f"the multipart body is damaged: {error}") from None
    if not reader.ended:
        raise Problem("bad_request", "the multipart body ends before its last boundary")


class _Reader:
    """Collects the parts of a multipart body."""

    def __init__(self, done: list[_Part], settings: Settings, most_photos: int, most_bytes: int | None) -> None:
        self.done, self.settings, self.most_photos, self.most_bytes = done, settings, most_photos, most_bytes
        self.part, self.photos, self.fields, self.bytes, self.ended = _Part(), 0, 0, 0, False

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": lambda: self.done.append(self.part),
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self.part = _Part()

    def _end(self) -> None:
        self.ended = True

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self.part.header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self.part.value += data[start:end]

    def _header_end(self) -> None:
        part = self.part
        part.headers[part.header.decode("latin-1").lower()] = part.value
        part.header = part.value = b""

    def _headers_finished(self) -> None:
        said = parse_options_header(self.part.headers.get("content-disposition", b""))[1]
        named = {key: value.decode("utf-8", "replace") for key, value in said.items()}
        self.part.name, self.part.file = named.get(b"name", ""), named.get(b"filename")
        if self.part.file is None:
            self.fields += 1
            if self.fields > FIELDS:
                raise Problem("bad_request", f"more than {FIELDS} text fields")
            return
        if self.part.name != "photo":
            raise Problem("bad_request", f"a file is sent as {self.part.name!r}; photos are called photo")
        self.part.limit = self.settings.photo_bytes
        self.photos += 1
        if self.photos > self.most_photos:
            raise Problem("too_many_photos", f"more than {self.most_photos} photos in one request")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if len(self.part.body) + end - start > self.part.limit:
            if self.part.file is None:
                raise Problem("bad_request", f"the field {self.part.name!r} is longer than {FIELD_BYTES:,} bytes")
            raise Problem("photo_too_large", f"{self.part.file}: larger than {self.settings.photo_bytes:,} bytes")
        self.bytes += end - start
        if self.most_bytes is not None and self.bytes > self.most_bytes + FIELD_BYTES:
            said = f"the photos of one request are larger than {self.most_bytes:,} bytes together"
            raise Problem("photo_too_large", said)
        self.part.body += data[start:end]


def _value(part: _Part) -> Photo | tuple[str, str]:
    if part.file is not None:
        return Photo(part.file[:255] or "photo", bytes(part.body))
    try:
        return part.name, part.body.decode("utf-8")
    except UnicodeDecodeError:
        raise Problem("bad_request", f"the field {part.name!r} is not UTF-8") from None


async def read(
    request: Request, intake: Intake, model: type[Model], one: str | None = None
) -> tuple[Model, list[Photo]]:
    """Read a request in JSON or multipart; Problem: the body fits neither, or is larger than the limits.

    Args:
        model: of the JSON; multipart fields have its names, but that files are called `photo`.
        one: the field of the model that holds the one photo; None: a list `photos`.
    """
    settings = intake.settings
    most = 1 if one else settings.photos
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        photos: list[Photo] = []
        fields: dict[str, Any] = {}
        async for part in parts(request, intake, most, settings.request_bytes):
            if isinstance(part, Photo):
                photos.append(part)
            elif part[0] in fields:
                raise Problem("bad_request", f"the field {part[0]!r} is given twice")
            else:
                fields[part[0]] = part[1]
        if not photos:
            raise Problem("bad_request", "no file called photo was sent")
        blank = [{"name": photo.name, "data": ""} for photo in photos]
        asked = checked(model, {**fields, **({one: blank[0]} if one else {"photos": blank})})
        return asked, photos
    if kind != "application/json":
        raise Problem("bad_request", "the body must be application/json or multipart/form-data")
    body, limit = bytearray(), settings.request_bytes * 4 // 3 + FIELD_BYTES
    async for chunk in intake.chunks(request):
        body += chunk
        if len(body) > limit:
            raise Problem("photo_too_large", f"the body is larger than {limit:,} bytes")
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > JSON_PARTS:
        raise Problem("bad_request", f"the JSON has more than {JSON_PARTS:,} parts")
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        raise Problem("bad_request", "the body is not valid JSON") from None
    asked = checked(model, values)
    encoded: list[EncodedPhoto] = [getattr(asked, one)] if one else getattr(asked, "photos")  # noqa: B009
    if len(encoded) > most:
        raise Problem("too_many_photos", f"{len(encoded)} photos, the limit is {most} in one request")
    return asked, [_decoded(photo, settings.photo_bytes) for photo in encoded]


def checked(model: type[Model], values: Any) -> Model:
    """Return values as a model; Problem bad_request that names the first field that does not fit."""
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        raise invalid(error.errors(include_url=False, include_input=False)[0], whole="body") from None


def _decoded(photo: EncodedPhoto, most: int) -> Photo:
    if len(photo.data) > most * 4 // 3 + 4:
        raise Problem("photo_too_large", f"{photo.name}: larger than {most:,} bytes")
    try:
        return Photo(photo.name, base64.b64decode(photo.data, validate=True))
    except (binascii.Error, ValueError):
        raise Problem("bad_request", f"{photo.name}: data is not base64") from None


def region_of(value: list[float] | dict[str, Any] | str | None, max_vertices: int, bounds: Bounds) -> Region | None:
    """Return the region of a request, cut to where there are cells. Unlike a command line's, it names no file.

    Args:
        value: [west, south, east, north], GeoJSON as an object or text, "west,south,east,north" or "cap:LAT,LON,RADIUS_M".
        max_vertices: of all rings together.
        bounds: west, south, east, north of the cells. A polygon is cut to them, because what a search of it costs follows its
            boundary, which a few vertices can draw across the Earth many times.

    Raises:
        Problem: region_invalid, with what is wrong, or region_empty, no cell can lie in it.
    """
    if value is None or value == "":
        return None
    try:
        return _cut(_region(value, max_vertices), bounds)
    except CellcodeError as error:
        raise Problem("region_invalid", str(error)) from None
    except RecursionError:
        raise Problem("region_invalid", "the region is nested too deeply") from None


def _cut(region: Region, bounds: Bounds) -> Region:
    west, south, east, north = bounds
    if west > east or region.cap_of is not None:  # across the antimeridian; a cap has a short boundary
        return region
    margin = 0.01  # degrees: bounds are of cells' corners or centres, their edges bend
    box = shapely.box(west - margin, south - margin, east + margin, north + margin)
    parts = [part for part in shapely.get_parts(region.shape.intersection(box)) if part.area > 0]
    if not parts:
        raise Problem("region_empty", "no cell of the database lies in the region")
    return Region(shapely.union_all(parts))


def _region(value: list[float] | dict[str, Any] | str, max_vertices: int) -> Region:
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("cap:"):
            lat, lon, radius_m = _numbers(text.removeprefix("cap:"), 3, "cap:LAT,LON,RADIUS_M")
            return Region.cap(lat, lon, radius_m)
        try:
            value = json.loads(text) if text.startswith("{") else _numbers(text, 4, "west,south,east,north")
        except json.JSONDecodeError:
            raise Problem("region_invalid", "the region is not valid JSON") from None
    if isinstance(value, dict):
        if (found := _vertices(value)) > max_vertices:
            said = f"the region has {found} vertices, the limit is {max_vertices}; simplify it"
            raise Problem("region_invalid", said)
        return Region.geojson(value)
    if len(value) != 4:
        raise Problem("region_invalid", f"the region has {len(value)} numbers, not west, south, east and north")
    return Region.bbox(*value)


def _numbers(text: str, count: int, form: str) -> list[float]:
    try:
        numbers = [parse_number(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise Problem("region_invalid", f"the region must be {form} in numbers, or GeoJSON")
    return numbers


def _vertices(value: Any) -> int:
    """Count lists of numbers anywhere in a GeoJSON value."""
    if isinstance(value, dict):
        return sum(_vertices(part) for part in value.values())
    if isinstance(value, list):
        return 1 if value and not isinstance(value[0], list | dict) else sum(_vertices(part) for part in value)
    return 0
