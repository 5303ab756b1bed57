"""Lists of photos as files: CSV, Parquet, GeoParquet, GeoJSON; read in parts of columns."""

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cellcode.errors import InputError
from cellcode.photos.sources.geometry import Geometry
from cellcode.types import Int64

LINES = 65_536


@dataclass(frozen=True)
class Lines:
    """Some lines of a list, as they are: nothing is checked yet.

    Attributes:
        numbers: (N,) int64, for people: of a CSV the line, of Parquet the row, of GeoJSON the feature, from 1.
        columns: our name to N values.
        faults: index to why a line is not usable at all.
    """

    numbers: Int64
    columns: dict[str, pa.Array]
    faults: dict[int, str] = field(default_factory=dict)


class PhotoList:
    """A list of photos.

    Attributes:
        names: its columns.
        placed: it has a geometry of points, which latitude and longitude come from.
    """

    names: list[str]
    placed: bool = False

    def read(self, wanted: Mapping[str, str]) -> Iterator[Lines]:
        """Yield its lines.

        Args:
            wanted: our name to the list's, of the columns to read.

        Raises:
            InputError: the file is damaged.
        """
        raise NotImplementedError


class CsvList(PhotoList):
    """A CSV file in UTF-8 with a header line; every value is text.

    Raises:
        InputError: it cannot be read, or is no CSV.
    """

    def __init__(self, path: Path) -> None:
        """Read the header."""
        self._path = path
        with _csv(path) as rows:
            self.names = [name.strip() for name in next(rows, [])]

    def read(self, wanted: Mapping[str, str]) -> Iterator[Lines]:
        """See `PhotoList`. A line that is too short has None for what it lacks; empty lines are skipped."""
        places = {name: self.names.index(column) for name, column in wanted.items()}
        with _csv(self._path) as rows:
            next(rows, None)
            numbered = ((rows.line_num, row) for row in rows if row)
            while some := list(islice(numbered, LINES)):
                columns = {
                    name: pa.array([row[place] if place < len(row) else None for _, row in some], pa.string())
                    for name, place in places.items()
                }
                yield Lines(np.array([number for number, _ in some], np.int64), columns)


class ParquetList(PhotoList):
    """A Parquet file; if it has the metadata of GeoParquet, its geometry is the position.

    Raises:
        InputError: it cannot be read, or has a geometry that cannot be.
    """

    def __init__(self, path: Path) -> None:
        """Read the metadata."""
        self._path = path
        with _parquet(path):
            self._file = pq.ParquetFile(path)
        schema = self._file.schema_arrow
        self.names = list(schema.names)
        self._geometry = Geometry.of_parquet(schema, path)
        self.placed = self._geometry is not None
        if path.suffix.lower() == ".geoparquet" and not self.placed:
            raise InputError(
                f"{path} lacks the metadata of GeoParquet ('geo'); rename it to .parquet if it has lat and lon"
            )

    def read(self, wanted: Mapping[str, str]) -> Iterator[Lines]:
        """See `PhotoList`."""
        geometry = self._geometry if not {"lat", "lon"} <= wanted.keys() else None
        names = {*wanted.values(), *([geometry.column] if geometry else [])}
        first = 1
        with _parquet(self._path):
            for batch in self._file.iter_batches(LINES, columns=sorted(names)):
                columns = {name: _plain(batch.column(column)) for name, column in wanted.items()}
                faults: dict[int, str] = {}
                if geometry is not None:
                    lat, lon, faults = geometry.positions(batch.column(geometry.column))
                    columns |= {"lat": pa.array(lat), "lon": pa.array(lon)}
                yield Lines(np.arange(first, first + len(batch)), columns, faults)
                first += len(batch)


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


@contextmanager
def _csv(path: Path) -> Iterator[Any]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield csv.reader(file, skipinitialspace=True)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8 ({error})") from None


@contextmanager
def _parquet(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]})") from None
