"""MBTiles: a pyramid of tiles in one SQLite file (version 1.3 of its specification), read only.

Rows are numbered from the south there, and from the north everywhere else in this package.
"""

import math
import sqlite3
import threading
from abc import abstractmethod
from pathlib import Path
from typing import Any

from cellcode.aerial.tiles.grid import WEB_MERCATOR, Box, web_mercator
from cellcode.aerial.tiles.provider import TileProvider, TileReply, Validators
from cellcode.aerial.tiles.service import WORLD, is_box
from cellcode.aerial.tiles.source import TileSource
from cellcode.errors import InputError
from cellcode.files import sampled_digest
from cellcode.http import MissingError

CRS_KEY = "cellcode_crs"  # in the metadata of a cache whose tiles are not those of web maps
LICENCE_KEY = "licence"
_MAX_ZOOM = 30


class SqliteTiles(TileProvider):
    """Tiles in an SQLite file. Several threads may use it; each opens its own connection."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._local, self._opened = threading.local(), list[sqlite3.Connection]()

    def close(self) -> None:
        """Close the connections of all threads."""
        while self._opened:
            self._opened.pop().close()
        self._local = threading.local()

    @abstractmethod
    def _connect(self) -> sqlite3.Connection: ...

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
            self._opened.append(connection)
        return connection


class MbTiles(SqliteTiles):
    """The tiles of a file, as a provider; InputError: it is not an MBTiles file, or it holds vector tiles or none at all."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        metadata = {str(name): str(value) for name, value in self._rows("SELECT name, value FROM metadata")}
        zooms = self._rows("SELECT MIN(zoom_level), MAX(zoom_level) FROM tiles")[0]
        _check(self.path, metadata, zooms)
        self.grid = web_mercator(*zooms)
        self.bounds = _bounds(self.path, metadata.get("bounds")) or self._extent(zooms[1])
        self.attribution = metadata.get("attribution", "")
        self.licence = metadata.get(LICENCE_KEY) or metadata.get("license", "")
        self.host = self.name = self.path.name
        self.identity = sampled_digest(self.path, samples=256, sample_bytes=16_384)

    def fetch(self, z: int, x: int, y: int, validators: Validators | None = None) -> TileReply:
        """See `TileProvider.fetch`."""
        query = "SELECT tile_data FROM tiles WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?"
        rows = self._rows(query, (z, x, 2**z - 1 - y))
        if not rows or not rows[0][0]:
            raise MissingError(f"{self.path} has no tile {z}/{x}/{y}", 404)
        return TileReply(bytes(rows[0][0]))

    def _connect(self) -> sqlite3.Connection:
        if not self.path.is_file():
            raise InputError(f"{self.path} does not exist")
        address = self.path.resolve().as_uri()
        connection = sqlite3.connect(f"{address}?mode=ro", uri=True, check_same_thread=False, timeout=30)
        try:
            connection.execute("SELECT 1 FROM sqlite_master").fetchall()
        except sqlite3.OperationalError:  # a file in WAL mode on a medium that cannot be written
            connection.close()
            connection = sqlite3.connect(f"{address}?mode=ro&immutable=1", uri=True, check_same_thread=False)
        return connection

    def _rows(self, query: str, values: tuple[int, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection().execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise InputError(f"{self.path} cannot be read as MBTiles ({error})") from None

    def _extent(self, z: int) -> Box:
        columns = "MIN(tile_column), MAX(tile_column), MIN(tile_row), MAX(tile_row)"
        left, right, low, high = self._rows(f"SELECT {columns} FROM tiles WHERE zoom_level = ?", (z,))[0]
        level = self.grid.levels[z]
        upper, lower = level.box(left, 2**z - 1 - high), level.box(right, 2**z - 1 - low)
        return self.grid.degrees((upper[0], lower[1], lower[2], upper[3]))


def open_mbtiles(path: Path | str) -> TileSource:
    """Open an MBTiles file as an aerial source; see `MbTiles`."""
    return TileSource(MbTiles(path))


def _check(path: Path, metadata: dict[str, str], zooms: tuple[Any, ...]) -> None:
    if metadata.get("format") in ("pbf", "mvt"):
        raise InputError(f"{path} holds vector tiles; imagery is required")
    if metadata.get(CRS_KEY, WEB_MERCATOR) != WEB_MERCATOR:
        raise InputError(f"{path} is the cache of a service in {metadata[CRS_KEY]}; name the service instead")
    if zooms[0] is None:
        raise InputError(f"{path} holds no tiles")
    if not all(isinstance(zoom, int) and 0 <= zoom <= _MAX_ZOOM for zoom in zooms):
        raise InputError(f"{path} has zoom levels {zooms[0]} to {zooms[1]}; they must lie in 0 to {_MAX_ZOOM}")


def _bounds(path: Path, text: str | None) -> Box | None:
    if not text:
        return None
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError:
        west = south = east = north = math.nan
    if not is_box((west, south, east, north)):
        raise InputError(f"{path}: its bounds {text!r} are not west,south,east,north in degrees; correct its metadata")
    return west, max(south, WORLD[1]), east, min(north, WORLD[3])
