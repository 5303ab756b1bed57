"""Cell codes in Milvus: written with `export`, searched with `MilvusSearcher`.

The same client speaks to a cluster (`http://host:19530`) and to milvus-lite, which runs inside this process where the
address is a local file that ends with .db. Needs the extra `milvus`.

Scores are the engine's: float32 products, summed in an order of its own, so the last digits differ from those of the other
searchers, and cells whose scores differ by less may change places. A server keeps float16 codes and compares them
with the query rounded to float16, which moves scores of unit vectors by up to 5e-4; `vector="float32"` avoids that for
twice the memory. milvus-lite knows float32 only.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from cellcode.database import Database
from cellcode.errors import CellcodeError, InputError, MissingExtraError, UsageError
from cellcode.geography import Region
from cellcode.index.codeset import checked
from cellcode.progress import Meter
from cellcode.search.searcher import Hits, Searched, check_k, ranges_of
from cellcode.types import Float32, Ids, Int64

Vector = Literal["float16", "float32"]
CELL, CODE = "cell", "code"  # the two fields of a row
PREFIX = "cellcode."  # of the properties that say what a collection holds
BATCH = 2048
# Ranges of ids in one filter. They are joined as a balanced tree: a plain chain of more than 49 fails in Milvus, whose
# messages nest at most so deep (https://github.com/milvus-io/milvus/issues/29759).
RANGES = 256
_TOP = np.uint64(1 << 63)
_NOT_OPENED = "Open local milvus failed"  # all that milvus-lite says


class MilvusError(CellcodeError):
    """Milvus cannot be reached, or refused; the sentence says why."""


def export(
    database: Database,
    uri: str,
    collection: str = "cells",
    *,
    replace: bool = False,
    vector: Vector | None = None,
    index: str = "FLAT",
    index_params: dict[str, Any] | None = None,
    batch: int = BATCH,
    token_env: str = "MILVUS_TOKEN",
) -> int:
    """Write every cell of a database to a collection, and load it for search.

    A collection that holds this database already is left as it is; one that an interrupted export left is written again.

    Args:
        uri: of a Milvus server, or the path of a milvus-lite file that ends with .db.
        replace: drop a collection of another database. One that `export` has not made is never dropped.
        vector: how codes are kept; None: float16 on a server, float32 in milvus-lite and servers before 2.4.
        index: Milvus's index type; any but FLAT searches approximately.
        index_params: of the index, such as {"M": 16, "efConstruction": 200} for HNSW.
        batch: cells sent at a time.
        token_env: environment variable that holds the server's token, "user:password" or an API key.

    Returns:
        The number of cells written; 0 if they were there.

    Raises:
        InputError: the collection exists and holds something else.
        MilvusError: Milvus cannot be reached, or refuses.
        UsageError: the address holds a password, `batch` is below 1, or float16 is asked of one that has none.
        MissingExtraError: pymilvus or milvus-lite is not installed.
    """
    if batch < 1:
        raise UsageError(f"batch is {batch}, it must be at least 1")
    with _speaking(uri), _connected(uri, token_env) as client:
        version = str(client.get_server_version())
        kept = vector or ("float16" if _has_float16(version) else "float32")
        if kept == "float16" and not _has_float16(version):
            raise UsageError(f"{version} keeps vectors in float32 only; leave vector away, or choose float32")
        wanted = _description(database, kept, index)
        if client.has_collection(collection):
            about = _about(client, collection)
            if about is None:
                raise InputError(f"collection {collection} exists and is not cellcode's; choose another name")
            if not replace:
                held, ours = ([each[key] for key in ("identity", "vector", "index")] for each in (about, wanted))
                if held != ours:
                    raise InputError(
                        f"collection {collection} holds database {' '.join(held)}, not {' '.join(ours)}; choose another "
                        "name, or replace it"
                    )
                client.load_collection(collection)
                if _rows(client, collection) == len(database.ids):
                    return 0
            client.drop_collection(collection)
        _create(client, collection, wanted, index_params or {})
        _write(client, collection, database, kept, batch)
    return len(database.ids)


class MilvusSearcher:
    """Searches a collection that `export` wrote; a `Searcher`, and a context manager.

    `Hits.log_mass` is None unless k is the number of cells searched: an engine gives the best scores, not the sum over all.
    Servers give at most 16384 cells a query.
    Where scores tie at the end of the list, the engine chooses who is on it.

    Args:
        uri, collection, token_env: see `export`.
        search_params: of the index, such as {"ef": 200} for HNSW.

    Raises:
        InputError: there is no such collection, it is of another origin, or its export was interrupted.
        MilvusError, UsageError, MissingExtraError: see `export`.
    """

    def __init__(
        self,
        uri: str,
        collection: str = "cells",
        *,
        token_env: str = "MILVUS_TOKEN",
        search_params: dict[str, Any] | None = None,
    ) -> None:
        self.uri, self.collection = uri, collection
        self._params = {"metric_type": "IP", "params": search_params or {}}
        with _speaking(uri):
            self._client = _client(uri, token_env)
            try:
                about = self._opened()
            except BaseException:
                self._client.close()
                raise
        self.identity, self.level = about["identity"], int(about["level"])
        self.temperature, self.dim = float(about["temperature"]), int(about["dim"])
        self._cells, self._exact = int(about["cells"]), about["index"] == "FLAT"
        self._type: type[np.floating] = np.float16 if about["vector"] == "float16" else np.float32

    def count(self, region: Region | None = None) -> int:
        """Return the number of cells in a region."""
        if region is None:
            return self._cells
        with _speaking(self.uri):
            return sum(_rows(self._client, self.collection, each) for each in self._filters(region))

    def search(self, queries: Float32, k: int, region: Region | None = None, temperature: float | None = None) -> Hits:
        """See `Searcher`; scores and `log_mass` are described at the head of this file and of this class.

        Raises:
            MilvusError: Milvus fails, or an approximate index gives fewer than k cells.
        """
        asked = checked(queries, self.dim).astype(self._type)
        filters = [""] if region is None else self._filters(region)
        with _speaking(self.uri):
            counts = [self._cells if not each else _rows(self._client, self.collection, each) for each in filters]
            check_k(k, sum(counts), region)
            parts = [
                self._best(asked, min(k, count), each) for each, count in zip(filters, counts, strict=True) if count
            ]
        ids, scores = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
        order = np.lexsort((ids, -scores), axis=1)[:, :k]
        ids, scores = np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)
        log_mass = None
        if temperature is not None and k == sum(counts):
            log_mass = np.logaddexp.reduce(scores.astype(np.float64) / temperature, axis=1)
        return Hits(
            cell_ids=ids, scores=scores, log_mass=log_mass, searched=Searched("milvus", sum(counts), self._exact)
        )

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        """Return the searcher."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self.close()

    def _opened(self) -> dict[str, str]:
        """Return what the collection holds, loaded for search."""
        if not self._client.has_collection(self.collection):
            raise InputError(f"there is no collection {self.collection} at {self.uri}; `cellcode export` makes one")
        about = _about(self._client, self.collection)
        if about is None:
            raise InputError(f"collection {self.collection} was not written by `cellcode export`; choose another")
        self._client.load_collection(self.collection)
        if (rows := _rows(self._client, self.collection)) != int(about["cells"]):
            raise InputError(
                f"collection {self.collection} has {rows} of the {about['cells']} cells of its database; export it again"
            )
        return about

    def _best(self, queries: npt.NDArray[np.floating], k: int, filter: str) -> tuple[Ids, Float32]:
        """Return the ids and scores of k cells that pass a filter, each (B, k)."""
        found = self._client.search(
            self.collection,
            data=list(queries),
            anns_field=CODE,
            limit=k,
            filter=filter,
            output_fields=[CELL],
            search_params=self._params,
        )
        if (fewest := min(len(row) for row in found)) < k:
            raise MilvusError(
                f"Milvus gave {fewest} of {k} cells that collection {self.collection} has to give; use a FLAT index or "
                "wider search_params"
            )
        ids = np.array([[hit[CELL] for hit in row] for row in found], np.int64)
        return from_keys(ids), np.array([[hit["distance"] for hit in row] for row in found], np.float32)

    def _filters(self, region: Region) -> list[str]:
        ranges = ranges_of(region, self.level)
        return [id_filter(ranges[first : first + RANGES]) for first in range(0, len(ranges), RANGES)]


def to_keys(ids: Ids) -> Int64:
    """Return ids less 2^63 as int64, Milvus's only integer for keys: the order is kept, so ranges stay ranges."""
    return np.asarray(ids ^ _TOP).view(np.int64)


def from_keys(keys: Int64) -> Ids:
    """Return the ids of keys."""
    return np.asarray(keys.view(np.uint64) ^ _TOP)


def id_filter(ranges: Ids) -> str:
    """Return Milvus's expression for cells in ranges of ids, (R, 2) first and last, R >= 1."""
    terms = [f"({CELL} >= {first} and {CELL} <= {last})" for first, last in to_keys(ranges).tolist()]
    while len(terms) > 1:
        terms = [f"({' or '.join(terms[at : at + 2])})" for at in range(0, len(terms), 2)]
    return terms[0]


def _description(database: Database, vector: Vector, index: str) -> dict[str, str]:
    """What a collection says of itself, as properties."""
    about = {
        "identity": database.identity,
        "cells": len(database.ids),
        "dim": int(database.codes.shape[1]),
        "level": database.level,
        "temperature": database.calibration.temperature,
        "vector": vector,
        "index": index,
    }
    return {key: str(value) for key, value in about.items()}


def _create(client: Any, name: str, about: dict[str, str], index_params: dict[str, Any]) -> None:
    kind = _pymilvus().DataType
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(CELL, kind.INT64, is_primary=True)
    schema.add_field(
        CODE, kind.FLOAT16_VECTOR if about["vector"] == "float16" else kind.FLOAT_VECTOR, dim=int(about["dim"])
    )
    indexes = client.prepare_index_params()
    indexes.add_index(CODE, index_type=about["index"], metric_type="IP", params=index_params)
    properties = {f"{PREFIX}{key}": value for key, value in about.items()}
    client.create_collection(name, schema=schema, index_params=indexes, properties=properties)


def _write(client: Any, name: str, database: Database, vector: Vector, batch: int) -> None:
    keys, narrow = to_keys(np.asarray(database.ids)), np.float16 if vector == "float16" else np.float32
    with Meter("exporting cells", len(keys)) as meter:
        for first in range(0, len(keys), batch):
            part = slice(first, min(first + batch, len(keys)))
            codes = np.asarray(database.codes[part]).astype(narrow)
            rows = [{CELL: key, CODE: code} for key, code in zip(keys[part].tolist(), codes, strict=True)]
            client.insert(name, rows)
            meter.advance(len(rows))
    client.flush(name)
    client.load_collection(name)
    if (there := _rows(client, name)) != len(keys):
        raise MilvusError(f"collection {name} has {there} cells after the export of {len(keys)}; export it again")


def _about(client: Any, name: str) -> dict[str, str] | None:
    """Return what `export` said of a collection; None if it is of another origin."""
    properties = client.describe_collection(name).get("properties") or {}
    about = {key.removeprefix(PREFIX): value for key, value in properties.items() if key.startswith(PREFIX)}
    known = {"identity", "cells", "dim", "level", "temperature", "vector", "index"}
    return about if known <= set(about) else None


def _rows(client: Any, name: str, filter: str = "") -> int:
    """Count the rows that pass a filter, among all that have been written before."""
    found = client.query(name, filter=filter, output_fields=["count(*)"], consistency_level="Strong")
    return int(found[0]["count(*)"])


def _is_lite(uri: str) -> bool:
    return "://" not in uri and uri.endswith(".db")


def _has_float16(version: str) -> bool:
    """Milvus has it from 2.4 on; a server before takes the collection, and ends at the first row. milvus-lite has none."""
    number = re.match(r"v?(\d+)\.(\d+)", version)
    return number is not None and (int(number[1]), int(number[2])) >= (2, 4)


def _pymilvus() -> Any:
    try:
        import pymilvus
    except ImportError:
        raise MissingExtraError("pymilvus", "milvus", "a Milvus collection") from None
    return pymilvus


def _client(uri: str, token_env: str) -> Any:
    if "://" not in uri and not uri.endswith(".db"):
        raise UsageError(f"{uri!r} is neither the address of a Milvus server nor a file that ends with .db")
    if "@" in urlsplit(uri).netloc:
        raise UsageError(f"the address of a Milvus server must hold no password; put it into ${token_env}")
    pymilvus = _pymilvus()
    if _is_lite(uri):
        try:
            import milvus_lite  # noqa: F401
        except ImportError:
            raise MissingExtraError("milvus-lite", "milvus", f"a local file {uri}") from None
    return pymilvus.MilvusClient(uri, token="" if _is_lite(uri) else os.environ.get(token_env, ""))


@contextmanager
def _connected(uri: str, token_env: str) -> Iterator[Any]:
    client = _client(uri, token_env)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def _speaking(uri: str) -> Iterator[None]:
    """Turn Milvus's errors into one sentence, without the tracebacks that its packages print beside them."""
    failure = _pymilvus().MilvusException  # its import sets up the logger
    loggers = [logging.getLogger(name) for name in ("pymilvus", "milvus_lite")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.CRITICAL + 1)
    try:
        yield
    except failure as error:
        said = (str(getattr(error, "message", "")) or str(error)).strip().splitlines() or ["no message"]
        hint = "; another process may have it open, or it is something else" if said[0] == _NOT_OPENED else ""
        raise MilvusError(f"Milvus at {uri}: {said[0]}{hint}") from None
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
