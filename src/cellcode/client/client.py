"""What one asks the service for, and the body of such a request."""

import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from cellcode.client.answers import (
    Answer,
    Cell,
    Failure,
    Served,
    Source,
    Verification,
    answer_of,
    failure_of,
    made,
    name_of,
)
from cellcode.client.transport import BUSY, ServiceError, Transport
from cellcode.errors import InputError, UsageError

Place = str | tuple[float, float, float, float] | dict[str, Any]  # "cap:LAT,LON,RADIUS_M", a box or GeoJSON


class Client:
    """Asks one service. It holds no connection: one client may be used by several threads.

    Args:
        url: http:// or https:// address of the service; a path in front of the API is kept.
        key: API key; give it only to https:// addresses or to this machine.
        timeout_s: until one step of a request (connecting, sending, the next part of the answer) is given up.
        wait_s: at most so long a call waits for a service that is busy (429, 503), of many photos for each; it waits as
            long as Retry-After says, and gives up at once where that is longer.

    Every method raises `ServiceError` where the service refuses or is not reached, and `InputError` where a photo's file
    cannot be read. Regions are "west,south,east,north", "cap:LAT,LON,RADIUS_M", four numbers, or GeoJSON as a dictionary.
    """

    def __init__(self, url: str, *, key: str | None = None, timeout_s: float = 60.0, wait_s: float = 60.0) -> None:
        self._service = Transport(url, key, timeout_s, wait_s)

    def locate(
        self,
        photo: Source,
        *,
        top: int = 5,
        region: Place | None = None,
        heading_deg: float | None = None,
        heat: bool = False,
    ) -> Answer:
        """Locate one photo: a path, the bytes of a file, or a file. One that cannot be read is a `ServiceError`."""
        fields = {"top": top, "region": region, "heading_deg": heading_deg, "heat": heat}
        value = self._service.json("POST", "/v1/locate", *form([photo], fields))["answers"][0]
        return answer_of(value, name_of(photo))

    def locate_together(self, photos: Sequence[Source], *, top: int = 5, region: Place | None = None) -> Answer:
        """Locate several photos of one place: one answer, whose `unreadable` names those left out."""
        if not photos:
            raise UsageError("there are no photos to locate together; give at least one")
        fields = {"top": top, "region": region, "fuse": True}
        value = self._service.json("POST", "/v1/locate", *form(photos, fields))["answers"][0]
        return answer_of(value, value["files"][0])

    def locate_many(
        self, photos: Iterable[Source], *, top: int = 5, region: Place | None = None, at_once: int = 16
    ) -> Iterator[Answer | Failure]:
        """Locate photos one by one as their answers come, in their order; one that cannot be read gives a `Failure`.

        Args:
            at_once: photos of one request; their files are in memory together.
        """
        if at_once < 1:
            raise UsageError(f"at_once must be at least 1, not {at_once}")
        left = iter(photos)
        while some := list(islice(left, at_once)):
            yield from self._batch(some, {"top": top, "region": region})

    def verify(
        self, photo: Source, lat: float, lon: float, *, region: Place | None = None, heading_deg: float | None = None
    ) -> Verification:
        """Return how plausible it is that a photo was taken at a place, in degrees."""
        fields = {"lat": lat, "lon": lon, "region": region, "heading_deg": heading_deg}
        value = self._service.json("POST", "/v1/verify", *form([photo], fields))
        return made(Verification, {**value, "answer": {**value["answer"], "file": name_of(photo)}})

    def database(self) -> Served:
        """Return what is searched, and what may be asked."""
        return made(Served, self._service.json("GET", "/v1/database"))

    def cell(self, token: str) -> Cell:
        """Return what is known of a cell of the database."""
        return made(Cell, self._service.json("GET", f"/v1/cells/{quote(token, safe='')}"))

    def crop(self, token: str, size_px: int = 256) -> bytes:
        """Return the imagery around a cell as JPEG, north up, twice as wide as the cell."""
        path = f"/v1/cells/{quote(token, safe='')}/aerial.jpg?{urlencode({'size_px': size_px})}"
        return self._service.whole("GET", path)

    def _batch(self, photos: list[Source], fields: dict[str, Any]) -> Iterator[Answer | Failure]:
        unread: dict[int, Failure] = {}
        sent: list[tuple[str, bytes]] = []
        for row, photo in enumerate(photos):
            try:
                sent.append((name_of(photo), file_bytes(photo)))
            except InputError as error:
                unread[row] = Failure(name_of(photo), str(error))
        lines = self._lines(sent, fields)
        for row in range(len(photos)):
            yield unread[row] if row in unread else next(lines)

    def _lines(self, sent: list[tuple[str, bytes]], fields: dict[str, Any]) -> Iterator[Answer | Failure]:
        """Send photos in one request and yield what each is answered with; those that a busy service left are sent again."""
        patience = self._service.patience()
        while sent:
            done = 0
            try:
                body = multipart(sent, fields)
                for value in self._service.lines("/v1/batch", len(sent), *body, patience):
                    name = sent[done][0]
                    yield failure_of(value, name) if "error" in value else answer_of(value, name)
                    done += 1
            except ServiceError as error:
                if error.code not in BUSY or error.status is not None:
                    raise
                if done:
                    patience = self._service.patience()
                patience.wait(1.0, error)
            sent = sent[done:]


def file_bytes(photo: Source) -> bytes:
    """Return the bytes of a photo's file; InputError if it cannot be read."""
    if isinstance(photo, bytes):
        return photo
    if not isinstance(photo, Path | str):
        return photo.read()
    try:
        return Path(photo).read_bytes()
    except OSError as error:
        raise InputError(f"{photo} cannot be read ({error.strerror})") from None


def form(photos: Sequence[Source], fields: dict[str, Any]) -> tuple[bytes, str]:
    """Return `multipart` of photos that are still to be read."""
    return multipart([(name_of(photo), file_bytes(photo)) for photo in photos], fields)


def multipart(photos: Sequence[tuple[str, bytes]], fields: dict[str, Any]) -> tuple[bytes, str]:
    """Return the body and content type of a form (RFC 7578). Of a photo's path only the name is sent."""
    mark = uuid.uuid4().hex
    given = {name: value for name, value in fields.items() if value is not None and value is not False}
    parts = [(f'form-data; name="{name}"', _text(value).encode()) for name, value in given.items()]
    for path, data in photos:
        file = Path(path).name.encode("utf-8", "replace").decode()
        file = file.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")  # as browsers do
        parts.append((f'form-data; name="photo"; filename="{file}"\r\nContent-Type: application/octet-stream', data))
    pieces = [f"--{mark}\r\nContent-Disposition: {head}\r\n\r\n".encode() + data + b"\r\n" for head, data in parts]
    return b"".join([*pieces, f"--{mark}--\r\n".encode()]), f"multipart/form-data; boundary={mark}"


def _text(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(repr, map(float, value)))
    return value if isinstance(value, str) else json.dumps(value)
