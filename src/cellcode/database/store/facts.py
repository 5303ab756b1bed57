"""Facts of each cell: cells.parquet."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cellcode.geography.s2.ranges import rows_of_ids
from cellcode.runs import CellFacts
from cellcode.types import Bools, Datetimes, Ids, Int32, Int64

SCHEMA = pa.schema(
    [
        ("cell", pa.uint64()),
        ("photos", pa.int32()),
        ("dates", pa.int32()),
        ("first_date", pa.date32()),
        ("last_date", pa.date32()),
        ("has_prototype", pa.bool_()),
        ("has_aerial", pa.bool_()),
        ("imagery_date", pa.date32()),
    ]
)


@dataclass(frozen=True)
class Facts:
    """Facts of N cells, (N,) arrays in the order of the ids.

    Attributes:
        photos: int32, training photos in the cell.
        dates: int32, distinct capture days among them.
        first_date, last_date: datetime64[D], NaT where no photo carries a date.
        has_prototype, has_aerial: bool, the terms of its code.
        imagery_date: datetime64[D] of its tile, NaT where there is none or it is undated.
    """

    photos: Int32
    dates: Int32
    first_date: Datetimes
    last_date: Datetimes
    has_prototype: Bools
    has_aerial: Bools
    imagery_date: Datetimes

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

        return cls(
            photos=spread(known.photos, 0),
            dates=spread(known.dates, 0),
            first_date=spread(known.first_date, no_date),
            last_date=spread(known.last_date, no_date),
            has_prototype=has_prototype,
            has_aerial=has_aerial,
            imagery_date=imagery_date,
        )

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
