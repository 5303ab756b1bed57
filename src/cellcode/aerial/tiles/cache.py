"""The cache of downloads, in MBTiles files: one file for each layer of a service.

A cache is an ordinary MBTiles file with one more table, of what a server said about each tile and when. It can be continued at
any time, written by several threads and processes at once, and used as a source of its own.
"""

import hashlib
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cellcode.aerial.tiles.blank import Placeholders
from cellcode.aerial.tiles.decoder import Decoder
from cellcode.aerial.tiles.mbtiles import CRS_KEY, LICENCE_KEY, SqliteTiles
from cellcode.aerial.tiles.provider import Key, TileProvider, TileReply, Validators
from cellcode.aerial.tiles.source import TileSource
from cellcode.errors import UsageError, unreadable
from cellcode.http import MissingError, RemoteError

GIB = 2**30
DAY_S = 86_400.0
_CHECK_EVERY = 64  # tiles stored between two looks at the size
_KEPT_SHARE = 0.9  # of the cap, when the oldest are removed
_WAIT_S = 60.0  # for another process that writes
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS metadata (name TEXT PRIMARY KEY, value TEXT)",
    "CREATE TABLE IF NOT EXISTS tiles (zoom_level INTEGER, tile_column INTEGER, tile_row INTEGER, tile_data BLOB, "
    "PRIMARY KEY (zoom_level, tile_column, tile_row))",
    "CREATE TABLE IF NOT EXISTS cellcode_fetched (zoom_level INTEGER, tile_column INTEGER, tile_row INTEGER, "
    "fetched_at REAL, bytes INTEGER, etag TEXT, last_modified TEXT, PRIMARY KEY (zoom_level, tile_column, tile_row))",
    "CREATE INDEX IF NOT EXISTS cellcode_age ON cellcode_fetched (fetched_at, bytes)",
    "CREATE TABLE IF NOT EXISTS cellcode_placeholders (digest BLOB PRIMARY KEY)",
)
_WHERE = "WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?"
_SELECT = (
    "SELECT fetched_at, etag, last_modified, tile_data FROM cellcode_fetched LEFT JOIN tiles "
    f"USING (zoom_level, tile_column, tile_row) {_WHERE}"
)


@dataclass(frozen=True)
class CacheRules:
    """How long and how much is kept."""

    refresh_after_s: float = 180 * DAY_S  # age from which a tile is requested again if it has changed
    missing_after_s: float = 7 * DAY_S  # age from which a tile that did not exist is requested again
    max_bytes: int = 16 * GIB  # of the tiles of one layer; beyond it those fetched first are removed


class CachedTiles(SqliteTiles):
    """A provider that keeps the tiles of another in a file. InputError: it cannot be written, or is no SQLite file."""

    def __init__(self, provider: TileProvider, path: Path, rules: CacheRules | None = None) -> None:
        super().__init__(path)
        self._provider, self.rules = provider, rules or CacheRules()
        self.grid, self.bounds = provider.grid, provider.bounds
        self.attribution, self.licence, self.date = provider.attribution, provider.licence, provider.date
        self.identity, self.host, self.name = provider.identity, provider.host, provider.name
        self.connections = provider.connections
        self._stored, self._counting = 0, threading.Lock()
        self._flips = provider.grid.is_mercator
        self._create()

    def fetch(self, z: int, x: int, y: int, validators: Validators | None = None) -> TileReply:
        """See `TileProvider.fetch`; an old tile is better than none when the server does not answer."""
        key = (z, x, 2**z - 1 - y if self._flips else y)
        fetched_at, kept = self._look(key)
        age_s = time.time() - fetched_at
        if kept and kept.body is None and age_s < self.rules.missing_after_s:
            raise MissingError(f"{self.host} has no tile {z}/{x}/{y}", 404)
        if kept and kept.body is not None and age_s < self.rules.refresh_after_s:
            return kept
        try:
            reply = self._provider.fetch(z, x, y, kept.validators if kept and kept.body is not None else None)
        except MissingError:
            self._store(key, None, Validators())
            raise
        except RemoteError:
            if kept is None or kept.body is None:
                raise
            return kept
        if reply.body is None:
            assert kept is not None  # a condition was sent, so there is a tile
            reply = TileReply(kept.body, reply.validators if reply.validators.headers() else kept.validators)
        self._store(key, reply.body, reply.validators)
        return reply

    def placeholders(self) -> Placeholders:
        """Return the service's known placeholders, and store those that are found."""
        rows = self._execute("SELECT digest FROM cellcode_placeholders").fetchall()

        def learned(digest: bytes) -> None:
            self._execute("INSERT OR IGNORE INTO cellcode_placeholders VALUES (?)", (digest,))

        return Placeholders((bytes(digest) for (digest,) in rows), learned)

    def kept_bytes(self) -> int:
        """Bytes of the tiles in the file."""
        return int(self._execute("SELECT COALESCE(SUM(bytes), 0) FROM cellcode_fetched").fetchone()[0])

    def close(self) -> None:
        """Close the connections of all threads, and the provider."""
        super().close()
        self._provider.close()

    def _look(self, key: Key) -> tuple[float, TileReply | None]:
        """When a tile was fetched, and what came; without a body it was not there."""
        row = self._execute(_SELECT, key).fetchone()
        if row is None:
            return 0.0, None
        return row[0], TileReply(None if row[3] is None else bytes(row[3]), Validators(row[1], row[2]))

    def _store(self, key: Key, body: bytes | None, validators: Validators) -> None:
        row = (*key, time.time(), len(body or b""), validators.etag, validators.last_modified)
        with self._writing():
            self._execute("INSERT OR REPLACE INTO cellcode_fetched VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            if body is None:
                self._execute(f"DELETE FROM tiles {_WHERE}", key)
            else:
                self._execute("INSERT OR REPLACE INTO tiles VALUES (?, ?, ?, ?)", (*key, body))
        with self._counting:
            self._stored += 1
            due = self._stored % _CHECK_EVERY == 0
        if due:
            self.trim()

    def trim(self) -> None:
        """Remove the tiles that were fetched first until the file holds less than its cap."""
        if self.kept_bytes() <= self.rules.max_bytes:
            return
        with self._writing():
            excess, age = self.kept_bytes() - _KEPT_SHARE * self.rules.max_bytes, 0.0
            for fetched_at, size in self._execute("SELECT fetched_at, bytes FROM cellcode_fetched ORDER BY fetched_at"):
                if excess <= 0:
                    break
                excess, age = excess - size, fetched_at
            self._execute(
                "DELETE FROM tiles WHERE (zoom_level, tile_column, tile_row) IN (SELECT zoom_level, tile_column, tile_row "
                "FROM cellcode_fetched WHERE fetched_at <= ?)",
                (age,),
            )
            self._execute("DELETE FROM cellcode_fetched WHERE fetched_at <= ?", (age,))

    def _create(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        values = {
            "name": self.name,
            "type": "baselayer",
            "bounds": ",".join(f"{side:.7g}" for side in self.bounds),
            "attribution": self.attribution,
            LICENCE_KEY: self.licence,
        }
        if not self._flips:
            values[CRS_KEY] = self.grid.crs
        with self._writing():
            for statement in _SCHEMA:
                self._execute(statement)
            for pair in values.items():
                self._execute("INSERT OR REPLACE INTO metadata VALUES (?, ?)", pair)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction that locks out other writers; it is committed, or rolled back on an error."""
        self._execute("BEGIN IMMEDIATE")
        with self._usable(), self._connection():
            yield

    def _execute(self, query: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        with self._usable():
            return self._connection().execute(query, values)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            otherwise = f"the cache of tiles {self.path} cannot be used ({error}); remove the file if it is damaged"
            raise unreadable(self.path, error, otherwise) from None

    def _connect(self) -> sqlite3.Connection:
        """Open it for several writers: readers do not wait, writers wait for each other."""
        deadline = time.monotonic() + _WAIT_S
        while True:
            connection = sqlite3.connect(self.path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                return connection
            except sqlite3.OperationalError as error:
                connection.close()
                # Changing the mode of a new file does not wait for another process that does the same.
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def cached(provider: TileProvider, folder: Path | None = None, rules: CacheRules | None = None) -> TileSource:
    """Return a source that keeps what it fetches.

    Args:
        folder: of the caches; None: `cache_folder()`.
        rules: None: the usual ones, with a cap of $CELLCODE_CACHE_GB gibibytes where that is set.
    """
    digest = hashlib.sha256(provider.name.encode()).hexdigest()[:12]
    file = f"{re.sub('[^A-Za-z0-9.-]+', '-', provider.host)}-{digest}.mbtiles"
    tiles = CachedTiles(provider, (folder or cache_folder()) / file, rules or CacheRules(max_bytes=_cap_bytes()))
    return TileSource(tiles, Decoder(tiles, tiles.placeholders()))


def cache_folder() -> Path:
    """Return where tiles are kept: `tiles` in $CELLCODE_CACHE, or in the user's cache folder for cellcode."""
    if given := os.environ.get("CELLCODE_CACHE"):
        return Path(given) / "tiles"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cellcode" / "tiles"


def _cap_bytes() -> int:
    text = os.environ.get("CELLCODE_CACHE_GB", "")
    try:
        gibibytes = float(text) if text else CacheRules.max_bytes / GIB
    except ValueError:
        gibibytes = 0
    if not 0 < gibibytes < 1e6:
        raise UsageError(f"CELLCODE_CACHE_GB is {text!r}; a number of gibibytes is required")
    return round(gibibytes * GIB)
