"""Files with one row per cell: numpy arrays, mapped, written and read some rows at a time, and the facts in cells.parquet."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cellcode.errors import InputError
from cellcode.geography.s2.ranges import rows_of_ids
from cellcode.runs import CellFacts
from cellcode.types import Bools, Datetimes, Ids, Int32, Int64

SCHEMA = pa.schema({
    "cell": pa.uint64(), "photos": pa.int32(), "dates": pa.int32(), "first_date": pa.date32(), "last_date": pa.date32(),
    "has_prototype": pa.bool_(), "has_aerial": pa.bool_(), "imagery_date": pa.date32(),
})  # fmt: skip


class RowWriter:
    """Write an array of shape (any, *row) as .npy, some rows at a time; a context manager.

    numpy pads the header so that its first dimension can grow in place; the final header is written on leaving.
    """

    def __init__(self, path: Path, row: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.row, self.dtype, self.count = row, np.dtype(dtype), 0
        self._file = path.open("wb")
        self._header_bytes = self._file.write(self._header())

    def append(self, rows: npt.NDArray[np.generic]) -> None:
        """Add rows, (B, *row); they are converted to the file's type."""
        if rows.shape[1:] != self.row:
            raise ValueError(f"rows of shape {rows.shape[1:]} do not fit a file of {self.row}")
        self._file.write(np.ascontiguousarray(rows, self.dtype).tobytes())
        self.count += len(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            header = self._header()
            if len(header) != self._header_bytes:
                raise ValueError(f"the header of a numpy file changed its length at {self.count} rows")
            self._file.seek(0)
            self._file.write(header)

    def _header(self) -> bytes:
        buffer, shape = io.BytesIO(), (self.count, *self.row)
        description = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(buffer, description)
        return buffer.getvalue()


class RowReader:
    """A mapped (N, D) array, of which scattered rows are read instead of mapped.

    A page fault maps 64 kB around a row and keeps them; thousands of rows from anywhere in a large file are read in
    half the time, and without growing the process by gigabytes. Slices are mapped. For several threads at once.
    """

    def __init__(self, path: Path, rows: npt.NDArray[Any]) -> None:
        self.shape, self.dtype = rows.shape, rows.dtype
        self._mapped = rows
        self._file = path.open("rb", buffering=0)
        # The rows are the end of the file.
        self._start = path.stat().st_size - rows.nbytes

    def __len__(self) -> int:
        return len(self._mapped)

    def __getitem__(self, rows: slice | Int64) -> npt.NDArray[Any]:
        """Return some rows; those that follow each other are read together."""
        if isinstance(rows, slice) or not len(rows):
            return self._mapped[rows]
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        first = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
        ends = np.append(first[1:], len(rows))
        row_bytes = out[0].nbytes
        target, file = out.data.cast("B"), self._file.fileno()
        places = (self._start + rows[first] * row_bytes).tolist()
        for place, start, stop in zip(places, (first * row_bytes).tolist(), (ends * row_bytes).tolist(), strict=True):
            if os.preadv(file, (target[start:stop],), place) != stop - start:
                raise InputError(f"{self._file.name} was truncated while it was searched; build the database again")
        return out


@dataclass(frozen=True)
class Facts:
    """Facts of N cells, (N,) arrays in the order of the ids; dates are datetime64[D]."""

    photos: Int32  # training photos in the cell
    dates: Int32  # distinct capture days among them
    first_date: Datetimes  # NaT where no photo carries a date, as is the next
    last_date: Datetimes
    has_prototype: Bools  # the terms of its code
    has_aerial: Bools
    imagery_date: Datetimes  # of its tile, NaT where there is none or it is undated

    @classmethod
    def of_cells(
        cls, ids: Ids, known: CellFacts, has_prototype: Bools, has_aerial: Bools, imagery_date: Datetimes
    ) -> Self:
        """Look up the facts that a run has of some cells; those without training photos get 0 and NaT."""
        rows, no_date = rows_of_ids(known.ids, ids), np.datetime64("NaT", "D")
        found = rows >= 0

        def spread(values: Any, missing: Any) -> Any:
            out = np.full(len(ids), missing, values.dtype)
            out[found] = values[rows[found]]
            return out

        counts = (spread(known.photos, 0), spread(known.dates, 0))
        days = (spread(known.first_date, no_date), spread(known.last_date, no_date))
        return cls(*counts, *days, has_prototype, has_aerial, imagery_date)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the rows of several, one after the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def select(self, rows: slice | Int64) -> Self:
        """Return some rows."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    def table(self, ids: Ids) -> pa.Table:
        """Return the rows of cells.parquet."""
        columns = {field.name: pa.array(getattr(self, field.name)) for field in fields(self)}
        return pa.table({"cell": pa.array(ids, pa.uint64()), **columns}).cast(SCHEMA)

    @classmethod
    def load(cls, path: Path) -> tuple[Ids, Self]:
        """Read cells.parquet: the ids of its cells, and their facts."""
        table = pq.read_table(path, schema=SCHEMA)
        values = {field.name: table.column(field.name).to_numpy() for field in fields(cls)}
        for name in ("first_date", "last_date", "imagery_date"):
            values[name] = values[name].astype("datetime64[D]")
        return table.column("cell").to_numpy(), cls(**values)
