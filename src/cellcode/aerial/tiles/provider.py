"""What a service or a file of tiles offers, so that one crop routine and one cache serve all of them.

A provider says where its tiles lie (`grid`) and fetches one. `TileSource` makes an aerial source of it, and `cached` one that
caches downloads. Services that render any box (WMS, ArcGIS) are asked for the boxes of a grid's tiles.
"""

import io
import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from cellcode.aerial.tiles.grid import Box, Grid

MAX_TILE_PX = 4096
MAX_TILE_BYTES = 64 * 2**20
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF")  # of tiles; Pillow would try others, some by other programs
_MAX_SCANS = 100  # of a progressive JPEG, which usually has 10: each costs as much as a whole image
Key = tuple[int, int, int]  # level, column and row of a tile


@dataclass(frozen=True)
class Validators:
    """A server's validators of a tile, to request it only if it has changed."""

    etag: str | None = None
    last_modified: str | None = None

    def headers(self) -> dict[str, str]:
        """Return the condition of a request."""
        named = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in named.items() if value}


@dataclass(frozen=True)
class TileReply:
    """A tile as it came: an image file; `body` is None where it has not changed since the validators."""

    body: bytes | None
    validators: Validators = Validators()


class TileProvider(ABC):
    """Tiles of one layer; used from several threads. `fetch` and the attributes are what a provider must have.

    Attributes:
        grid: where its tiles lie; its levels are those that the provider has.
        attribution, licence, identity, date, bounds: see `AerialSource`. Tiles outside `bounds` are not requested.
        host: name for messages about missing tiles.
        name: of its cache: what is fetched, without secrets; another layer or style is another name.
        connections: tiles to fetch at the same time; 0 for a file, which is read by the calling thread.
    """

    grid: Grid
    attribution: str = ""
    licence: str = ""
    identity: str
    date: str | None = None
    bounds: Box
    host: str
    name: str
    connections: int = 0

    @abstractmethod
    def fetch(self, z: int, x: int, y: int, validators: Validators | None = None) -> TileReply:
        """Fetch a tile of level `z`, column `x` and row `y`, counted from the upper left.

        MissingError: the tile does not exist. RemoteError: it cannot be fetched.
        """

    def close(self) -> None:  # noqa: B027 - a default
        """Close files and connections."""


def decode(body: bytes, side_px: int | None = None) -> Image.Image:
    """Decode a tile to RGB, or to RGBA where it has transparency; a JPEG to about `side_px` or larger, which costs less.

    Raises:
        ValueError: it is not an image of 8 bits per channel, is damaged, or is too large for a tile.
    """
    try:
        if body.startswith(b"\xff\xd8") and body.count(b"\xff\xda") > _MAX_SCANS:
            raise ValueError(f"a JPEG of more than {_MAX_SCANS} scans")
        image: Image.Image = Image.open(io.BytesIO(body), formats=_FORMATS)
        if max(image.size) > MAX_TILE_PX:
            raise ValueError(f"{image.width} x {image.height} pixels are too many for a tile")
        if image.mode in ("I", "F", "I;16", "I;16B"):
            raise ValueError(f"8 bits per channel are required, its mode is {image.mode}")
        if side_px is not None:
            image.draft("RGB", (side_px, side_px))
        if image.mode == "RGB" and "transparency" not in image.info:  # most tiles: a copy less
            image.load()
            return image
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    except UnidentifiedImageError:
        raise ValueError(f"not an image of {', '.join(_FORMATS)}") from None
    except (OSError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(str(error) or "damaged") from None
    opaque = image.mode == "RGBA" and image.getchannel("A").getextrema() == (255, 255)
    return image.convert("RGB") if opaque else image
