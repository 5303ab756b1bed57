"""What a source yields: the row of an accepted photo, or the reason why a photo was left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reject:
    """A photo left out: its file, the line of the list it came from (None in a folder), and why."""

    file: str
    line: int | None
    reason: str


Item = dict[str, Any] | Reject
