"""A photo table some thousands of rows at a time, for work on tables that do not fit in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from cellcode.errors import InputError
from cellcode.photos.table.photo_table import SCHEMA, PhotoTable, check, complete, read_manifest, root_of

ROWS = 8_192
_READ_BYTES = 1 << 20  # of each column at a time; whole row groups would be held without it


@dataclass(frozen=True)
class Batches:
    """A photo table, in memory or in a folder, that is gone through a part at a time. `Batches.of` opens one.

    Attributes:
        root: the folder that `file` is relative to.
        photos: their number.
    """

    root: Path
    photos: int
    _source: pa.Table | Path

    @classmethod
    def of(cls, photos: PhotoTable | Path | str) -> Self:
        """Open a photo table.

        Raises:
            InputError: see `PhotoTable.load`.
        """
        if isinstance(photos, PhotoTable):
            return cls(photos.root, len(photos), photos.rows)
        folder = Path(photos)
        manifest, path = read_manifest(folder), folder / "photos.parquet"
        try:
            with pq.ParquetFile(path) as file:
                schema, count = complete(file.schema_arrow.empty_table()).schema, file.metadata.num_rows
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]})") from None
        check(folder, manifest, schema, count)
        return cls(root_of(folder, manifest), count, path)

    def parts(self, columns: list[str] | None = None, rows: int = ROWS) -> Iterator[pa.Table]:
        """Yield some columns, or all of the schema, of at most `rows` photos after another.

        Raises:
            InputError: the table cannot be read to its end.
        """
        columns = columns or SCHEMA.names
        if isinstance(self._source, pa.Table):
            for first in range(0, self.photos, rows):
                yield self._source.slice(first, rows).select(columns)
            return
        try:
            with pq.ParquetFile(self._source, buffer_size=_READ_BYTES) as file:
                known = [name for name in columns if name in file.schema_arrow.names]
                for batch in file.iter_batches(rows, columns=known, use_threads=False):
                    yield complete(pa.Table.from_batches([batch])).select(columns)
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"{self._source} cannot be read ({str(error).splitlines()[0]})") from None


@contextmanager
def plain_memory() -> Iterator[None]:
    """Let Arrow take its memory from the system while the block runs: its own allocator keeps most of what was freed."""
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)
