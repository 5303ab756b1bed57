"""A numpy file that grows by rows, so that the memory needed does not depend on their number."""

from __future__ import annotations

import io
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt


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
