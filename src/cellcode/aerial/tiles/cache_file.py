"""The SQLite file of a cache: MBTiles, and tables of its own."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

_WAIT_S = 60.0  # for another process that writes
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS metadata (name TEXT PRIMARY KEY, value TEXT)",
    "CREATE TABLE IF NOT EXISTS tiles (zoom_level INTEGER, tile_column INTEGER, tile_row INTEGER, tile_data BLOB, "
    "PRIMARY KEY (zoom_level, tile_column, tile_row))",
    "CREATE TABLE IF NOT EXISTS cellcode_fetched (zoom_level INTEGER, tile_column INTEGER, tile_row INTEGER, "
    "fetched_at REAL, bytes INTEGER, etag TEXT, last_modified TEXT, PRIMARY KEY (zoom_level, tile_column, tile_row))",
    "CREATE INDEX IF NOT EXISTS cellcode_age ON cellcode_fetched (fetched_at, bytes)",
    "CREATE TABLE IF NOT EXISTS cellcode_placeholders (digest BLOB PRIMARY KEY)",
)


def connect(path: Path) -> sqlite3.Connection:
    """Open the file for several writers: readers do not wait, writers wait for each other."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        connection = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
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
