"""What services of tiles have in common: facts that a user or preset gives, environment variables in addresses, requests."""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from dataclasses import asdict, dataclass, replace
from urllib.parse import parse_qsl, urlsplit

from cellcode.aerial.tiles.grid import Box
from cellcode.aerial.tiles.provider import TileProvider, TileReply, Validators, decode
from cellcode.errors import UsageError
from cellcode.http import Client, MissingError, RemoteError, redact
from cellcode.http.client import Expected

WORLD: Box = (-180.0, -85.0511287798066, 180.0, 85.0511287798066)
MAX_ZOOM = 22  # where nothing says how fine the tiles are; a tile that is missing there is made of a coarser one
_ENVIRONMENT = re.compile(r"\{env:([^{}]+)\}")


@dataclass(frozen=True)
class Facts:
    """What an address does not say of its tiles.

    Attributes:
        min_zoom, max_zoom: the levels that the service has.
        bounds: west, south, east, north in degrees.
        attribution, licence: for the manifest of what is made from it.
        date: of the imagery, ISO 8601.
    """

    min_zoom: int = 0
    max_zoom: int = MAX_ZOOM
    bounds: Box = WORLD
    attribution: str = ""
    licence: str = ""
    date: str | None = None

    def updated(self, fragment: str, url: str) -> Facts:
        """Return the facts with those of a fragment, `max_zoom=19&attribution=...`, in place of theirs, or raise UsageError."""
        shown, values = redact(url), asdict(self)
        for name, text in parse_qsl(fragment, keep_blank_values=True):
            if name not in values:
                raise UsageError(f"{shown}: unknown option {name}; valid options: {', '.join(values)}")
            try:
                if name == "bounds":
                    west, south, east, north = (float(part) for part in text.split(","))
                    values[name] = (west, south, east, north)
                else:
                    values[name] = int(text) if name.endswith("zoom") else text
            except ValueError:
                wanted = "west,south,east,north in degrees" if name == "bounds" else "a whole number"
                raise UsageError(f"{shown}: {name}={text} must be {wanted}") from None
        facts = Facts(**values)
        if not 0 <= facts.min_zoom <= facts.max_zoom <= 30:
            zooms = f"{facts.min_zoom} to {facts.max_zoom}"
            raise UsageError(f"{shown}: zooms {zooms} must be in ascending order and within 0 to 30")
        if not is_box(facts.bounds):
            raise UsageError(f"{shown}: the bounds {facts.bounds} are not west, south, east, north in degrees")
        return facts

    def completed(self, bounds: Box, attribution: str, licence: str = "") -> Facts:
        """Return the facts, those that nobody has given taken from what a service says of itself."""
        bounds = bounds if self.bounds == WORLD else self.bounds
        attribution, licence = self.attribution or attribution, self.licence or licence
        return replace(self, bounds=bounds, attribution=attribution, licence=licence)


class ServiceTiles(TileProvider):
    """Tiles that a service sends, each from an address of its own; without a client, through one of its own."""

    expect: Expected = "image"  # anything else is a temporary error, such as an error page with status 200

    def __init__(self, url: str, client: Client | None) -> None:
        self._client, self._shown = client or Client(), redact(url)
        self.connections = self._client.politeness.connections

    @abstractmethod
    def url(self, z: int, x: int, y: int) -> str:
        """Return the address of a tile."""

    def fetch(self, z: int, x: int, y: int, validators: Validators | None = None) -> TileReply:
        """See `TileProvider.fetch`. A tile is decoded once, so that a damaged one is requested again.

        An empty answer to every try is a missing tile. InputError: the service says that the request is wrong.
        """

        def check(body: bytes) -> None:
            try:
                decode(body)
            except ValueError:
                self._refuse(body)
                raise

        headers = validators.headers() if validators else None
        try:
            reply = self._client.get(self.url(z, x, y), headers=headers, expect=self.expect, verify=check)
        except RemoteError as error:
            if error.reason == "empty answer":
                raise MissingError(f"{error}", error.status or 200) from None
            raise
        version = Validators(reply.headers.get("ETag"), reply.headers.get("Last-Modified"))
        return TileReply(None if reply.not_modified else reply.body, version)

    def _describe(self, facts: Facts) -> None:
        self.bounds, self.date = facts.bounds, facts.date
        self.attribution, self.licence = facts.attribution, facts.licence

    def _check(self, url: str) -> None:
        """Take the host of a URL; refuse a private one. An unknown one is accepted: its tiles may be in the cache."""
        self.host = urlsplit(url).hostname or ""
        try:
            self._client.check(url)
        except RemoteError as error:
            if error.lasting:
                raise

    def _refuse(self, body: bytes) -> None:
        """Raise what the service says in a body that is no image, if it says anything."""


def is_box(bounds: Box) -> bool:
    """Return True if bounds are a box in degrees; one across 180 degrees has its west east of its east."""
    west, south, east, north = bounds
    return abs(west) <= 180 and abs(east) <= 180 and -90 <= south < north <= 90 and west != east


def with_environment(url: str) -> str:
    """Return an address with `{env:NAME}`, where a key belongs, replaced by the variable; UsageError if it is not set."""

    def value(found: re.Match[str]) -> str:
        if not os.environ.get(found[1]):
            raise UsageError(f"{redact(url)}: the environment variable {found[1]} is not set")
        return os.environ[found[1]]

    return _ENVIRONMENT.sub(value, url)
