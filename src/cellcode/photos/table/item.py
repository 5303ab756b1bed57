"""What a source yields: the rows of accepted photos, and the reasons why others were left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pyarrow as pa

from cellcode.photos.table.photo_table import SCHEMA

_ROWS = 10_000


@dataclass(frozen=True)
class Reject:
    """A photo left out: its file, the line of the list it came from (None in a folder), and why.

    A transient reason is a passing fault: asked again later, the photo may well be there, so it is missing, not refused.
    The kind is the reason in words that are the same for all such photos, to count by; None: the reason is in such words.
    """

    file: str
    line: int | None
    reason: str
    transient: bool = False
    kind: str | None = None


Item = dict[str, Any] | Reject


@dataclass(frozen=True)
class Batch:
    """Some photos of a source.

    Attributes:
        rows: accepted ones, a pyarrow table of the photo table's schema.
        left_out: numbers of photos that were not asked for (outside the region, ...), by the reason.
    """

    rows: pa.Table
    rejects: list[Reject] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def in_batches(items: Iterable[Item]) -> Iterator[Batch]:
    """Collect the items of a source that yields its photos one by one."""
    items = iter(items)
    while some := list(islice(items, _ROWS)):
        rows = [{name: item.get(name) for name in SCHEMA.names} for item in some if not isinstance(item, Reject)]
        yield Batch(pa.Table.from_pylist(rows, SCHEMA), [item for item in some if isinstance(item, Reject)])
