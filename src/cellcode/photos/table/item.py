"""What a source yields: the rows of accepted photos, and the reasons why others were left out."""

from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa


@dataclass(frozen=True)
class Reject:
    """A photo left out.

    Attributes:
        file: its name.
        line: the line of the list it came from; None in a folder.
        reason: why, for people.
        transient: the error is temporary: the photo is missing, and a later run may get it.
        kind: the reason in words that are the same for all such photos, to count by; None: the reason is in such words.
    """

    file: str
    line: int | None
    reason: str
    transient: bool = False
    kind: str | None = None


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
