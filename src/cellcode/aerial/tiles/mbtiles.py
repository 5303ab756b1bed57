"""MBTiles: a pyramid of tiles in one SQLite file (version 1.3 of its specification), read only.

Rows are numbered from the south there, and from the north everywhere else in this package.
"""

import logging
import math
import sqlite3
import threading
import time
import zlib
from abc import abstractmethod
from pathlib import Path
from typing import Any

from cellcode.aerial.tiles.grid import WEB_MERCATOR, Box, share_in, shown_box, web_mercator
from cellcode.aerial.tiles.provider import MAX_TILE_BYTES, TileProvider, TileReply, Validators
from cellcode.aerial.tiles.service import WORLD, is_box
from cellcode.aerial.tiles.source import TileSource
from cellcode.errors import InputError
from cellcode.files import sampled_digest
from cellcode.http import MissingError, RemoteError

logger = logging.getLogger(__name__)

CRS_KEY = "cellcode_crs"  # in the metadata of a cache whose tiles are not those of web maps
LICENCE_KEY = "licence"
QUERY_S = 30.0  # for one query, which an endless view would never end
_STEPS = 100_000  # of SQLite between two looks at the time
_MAX_ZOOM = 30


class _DamagedError(InputError):
    """A part of the file is damaged, or a value is too large."""


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
        rows = self._rows("SELECT substr(name, 1, 99), substr(value, 1, 99999) FROM metadata LIMIT 999")
        metadata = {str(name): str(value) for name, value in rows}
        # Two queries, which an index answers at once.
        zooms = self._rows("SELECT (SELECT MIN(zoom_level) FROM tiles), (SELECT MAX(zoom_level) FROM tiles)")[0]
        _check(self.path, metadata, zooms)
        self.grid = web_mercator(*zooms)
        self._from_north = metadata.get("scheme", "").lower() == "xyz"
        bounds = _bounds(self.path, metadata.get("bounds"))
        if bounds is not None:
            self._from_north = self._lies_from_north(zooms[1], bounds)
        self.bounds = bounds or self._box(zooms[1], self._extent(zooms[1]), self._from_north)
        self.attribution = metadata.get("attribution", "")
        self.licence = metadata.get(LICENCE_KEY) or metadata.get("license", "")
        self.host = self.name = self.path.name
        self.identity = sampled_digest(self.path, samples=256, sample_bytes=16_384)

    def fetch(self, z: int, x: int, y: int, validators: Validators | None = None) -> TileReply:
        """See `TileProvider.fetch`."""
        query = "SELECT tile_data FROM tiles WHERE zoom_level = ? AND tile_column = ? AND tile_row = ? LIMIT 1"
        try:
            rows = self._rows(query, (z, x, y if self._from_north else 2**z - 1 - y))
            if not rows or not rows[0][0]:
                raise MissingError(f"{self.path} has no tile {z}/{x}/{y}", 404)
            return TileReply(_unpacked(rows[0][0]))
        except (_DamagedError, ValueError) as error:
            sentence = f"{self.path}: tile {z}/{x}/{y} cannot be read ({error})"
            raise RemoteError(sentence, "damaged", lasting=True) from None

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
        except sqlite3.Error:
            return connection  # every query will say so
        # The file may come from anyone: its views call no functions with effects, and give no value beyond a tile's size.
        for pragma in ("query_only = ON", "trusted_schema = OFF", "cell_size_check = ON"):
            connection.execute(f"PRAGMA {pragma}")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_TILE_BYTES)
        return connection

    def _rows(self, query: str, values: tuple[int, ...] = ()) -> list[tuple[Any, ...]]:
        connection, deadline = self._connection(), time.monotonic() + QUERY_S
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
        try:
            return connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            if time.monotonic() > deadline:
                sentence = f"{self.path} does not answer a query within {QUERY_S:g} s; write its tiles to a new file"
                raise RemoteError(sentence, "too slow", lasting=True) from None
            kind = InputError if isinstance(error, sqlite3.OperationalError) else _DamagedError
            raise kind(f"{self.path} cannot be read as MBTiles ({error})") from None

    def _lies_from_north(self, z: int, bounds: Box) -> bool:
        """Return True if tiles lie in the bounds where rows are counted from the north, as some writers do."""
        query = "SELECT tile_column, tile_column, tile_row, tile_row FROM tiles WHERE zoom_level = ? LIMIT 1"
        if bounds[0] > bounds[2]:
            bounds = (-180.0, bounds[1], 180.0, bounds[3])
        sample, both = self._numbers(query, z), (False, True)
        if [share_in(bounds, self._box(z, sample, each)) > 0 for each in both] == [True, False]:
            return False  # of a large file the extent costs a while
        extent = self._extent(z)
        south, north = (share_in(bounds, self._box(z, extent, each)) for each in both)
        if not south and not north:
            lies = shown_box(self._box(z, extent, False))
            raise InputError(f"{self.path}: its tiles lie in {lies}, outside its bounds; correct its metadata")
        if north > south:
            logger.warning("%s: its rows are counted from the north, against the specification", self.path)
        return north > south

    def _extent(self, z: int) -> tuple[int, ...]:
        """The first and the last column and row of a level."""
        columns = "MIN(tile_column), MAX(tile_column), MIN(tile_row), MAX(tile_row)"
        return self._numbers(f"SELECT {columns} FROM tiles WHERE zoom_level = ?", z)

    def _numbers(self, query: str, z: int) -> tuple[int, ...]:
        found = self._rows(query, (z,))[0]
        if not all(isinstance(number, int) and 0 <= number < 2**z for number in found):
            raise InputError(f"{self.path}: level {z} has tiles in columns and rows {found}, which do not exist")
        return found

    def _box(self, z: int, extent: tuple[int, ...], from_north: bool) -> Box:
        """West, south, east, north of columns and rows."""
        left, right, low, high = extent
        first, last = (low, high) if from_north else (2**z - 1 - high, 2**z - 1 - low)
        upper, lower = self.grid.levels[z].box(left, first), self.grid.levels[z].box(right, last)
        return self.grid.degrees((upper[0], lower[1], lower[2], upper[3]))


def open_mbtiles(path: Path | str) -> TileSource:
    """Open an MBTiles file as an aerial source; see `MbTiles`."""
    return TileSource(MbTiles(path))


def _unpacked(data: object) -> bytes:
    """Return a tile; some writers pack images with gzip, as they do vector tiles."""
    if not isinstance(data, bytes):
        raise ValueError("it is not a BLOB")
    if not data.startswith(b"\x1f\x8b"):
        return data
    unpacker = zlib.decompressobj(wbits=31)
    try:
        body = unpacker.decompress(data, MAX_TILE_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if unpacker.unconsumed_tail:
        raise ValueError(f"it unpacks to more than {MAX_TILE_BYTES // 2**20} MiB")
    return body


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
