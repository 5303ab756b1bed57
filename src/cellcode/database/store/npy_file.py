"""Numpy files of many rows: written row by row, and read a few rows from anywhere; memory does not follow their number."""

import io
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from cellcode.errors import InputError
from cellcode.types import Int64


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
        buffer = io.BytesIO()
        description = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.count, *self.row),
        }
        np.lib.format.write_array_header_1_0(buffer, description)
        return buffer.getvalue()


class RowReader:
    """A mapped (N, D) array, of which scattered rows are read instead of mapped.

    A page fault maps 64 kB around a row and keeps them; thousands of rows from anywhere in a large file are read in
    half the time, and without growing the process by gigabytes. Slices are mapped. For several threads at once.

    Args:
        path: the numpy file.
        rows: its array, memory-mapped.
    """

    def __init__(self, path: Path, rows: npt.NDArray[Any]) -> None:
        self.shape, self.dtype = rows.shape, rows.dtype
        self._mapped = rows
        self._file = path.open("rb", buffering=0)
        # The rows are the end of the file.
        self._start = path.stat().st_size - rows.nbytes

    def __len__(self) -> int:
        """N."""
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
