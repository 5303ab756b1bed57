"""ArcGIS ImageServer, as a provider of tiles: `exportImage` renders any box in any reference system, x always first."""

import json
import math
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from cellcode.aerial.tiles.cache import cached
from cellcode.aerial.tiles.grid import WEB_MERCATOR, Box, Grid, known_crs
from cellcode.aerial.tiles.service import WORLD, BoxService, Facts, with_environment
from cellcode.aerial.tiles.source import TileSource
from cellcode.errors import InputError, UsageError
from cellcode.http import Client, RemoteError


class ArcGisTiles(BoxService):
    """An image service, as a provider.

    Its address ends in `/ImageServer`; parameters such as a token or a `renderingRule` may follow; see `BoxService`.
    UsageError: it is not an image service. InputError: it does not describe itself. RemoteError: it does not answer.
    """

    def __init__(self, url: str, facts: Facts | None = None, client: Client | None = None) -> None:
        super().__init__(url, facts, client)
        self._address = self._address.rstrip("/").removesuffix("/exportImage")
        if not self._address.endswith("/ImageServer"):
            raise UsageError(f"{self._shown} is not an image service; its address must end in /ImageServer")
        self._given = dict(parse_qsl(urlsplit(with_environment(self._url)).query))
        self._check(self._address)
        about: Any = self._client.json(self._address, params={**self._given, "f": "json"})
        if not isinstance(about, dict):
            raise InputError(f"{self._shown} did not answer with the description of an image service")
        self._raise_error(about)
        named: list[Any] = [about.get(name) for name in ("maxImageWidth", "maxImageHeight")]
        sizes = [size for size in named if isinstance(size, int | float) and 1 <= size < math.inf]
        described = self._facts.completed(_bounds(about), str(about.get("copyrightText") or ""))
        self._lay_out(WEB_MERCATOR, described, min(sizes, default=None))
        self._name(f"arcgis {self._shown} {self._side_px}")

    def url(self, z: int, x: int, y: int) -> str:
        """Return the address of a tile."""
        values = {
            "bbox": ",".join(f"{side:.4f}" for side in self.grid.levels[z].box(x, y)),
            "bboxSR": 3857,
            "imageSR": 3857,
            "size": f"{self._side_px},{self._side_px}",
            "format": "jpgpng",  # PNG where something is transparent, else JPEG
            "interpolation": "RSP_BilinearInterpolation",
            "f": "image",
        }
        return f"{self._address}/exportImage?{urlencode({**self._given, **values}, safe=',')}"

    def _refuse(self, body: bytes) -> None:
        with suppress(ValueError):  # what is no JSON says nothing
            answer = json.loads(body)
            if isinstance(answer, dict):
                self._raise_error(answer)

    def _raise_error(self, answer: dict[str, Any]) -> None:
        error = answer.get("error")
        if not isinstance(error, dict):
            return
        code, details = error.get("code"), error.get("details") or []
        text = " ".join(str(part) for part in (error.get("message"), *details) if part)
        sentence = f"{self.host} says: {text or 'an error without a text'} ({code})"
        if code in (401, 403, 498, 499):
            raise InputError(f"{sentence}; its address needs a valid token")
        raise RemoteError(sentence, "service exception", 200, lasting=True)


def open_arcgis(address: str, facts: Facts | None = None, client: Client | None = None) -> TileSource:
    """Open an ArcGIS ImageServer; what is fetched is kept in the cache. See `ArcGisTiles`."""
    return cached(ArcGisTiles(address, facts, client))


def _bounds(about: dict[str, Any]) -> Box:
    """West, south, east, north of a service's extent; the world where it cannot be carried to degrees."""
    extent: Any = about.get("extent") or about.get("fullExtent")
    try:
        reference = extent["spatialReference"]
        crs = known_crs(f"EPSG:{reference.get('latestWkid') or reference.get('wkid')}")
        if crs is None:
            return WORLD
        left, bottom, right, top = (float(extent[side]) for side in ("xmin", "ymin", "xmax", "ymax"))
        west, south, east, north = Grid(crs, {}).degrees((left, bottom, right, top))
    except (AttributeError, KeyError, TypeError, ValueError):  # its parts may be of any type
        return WORLD
    south, north = max(south, WORLD[1]), min(north, WORLD[3])
    return (west, south, east, north) if west < east and south < north else WORLD
