"""Several sources of one place as one: dates or providers, chosen for each crop.

The rule: in the order of priority, then from the newest date on, the first source that shows at least `cover` of the crop is
chosen; if none does, the one that shows most. What it does not show is filled from the others in that order. A source is read
only while something is missing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import shapely

from cellcode.aerial.missing import Missing
from cellcode.aerial.protocol import AerialSource, Crop
from cellcode.geography import Region


@dataclass(frozen=True)
class Member:
    """One of several sources; what is given here takes precedence over what the source says of itself."""

    source: AerialSource
    date: str | None = None  # ISO 8601; None: the source's own
    licence: str = ""  # empty: the source's own
    attribution: str = ""
    priority: int = 0  # smaller comes first

    @property
    def day(self) -> str:
        """The date by which it is sorted; empty if none is known."""
        return self.date or self.source.date or ""

    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float) -> Crop:
        """Cut a crop, with the member's date and attribution."""
        crop = self.source.read(lat_deg, lon_deg, size_m, size_px, bearing_deg)
        return replace(crop, date=self.date or crop.date, attribution=self.attribution or crop.attribution)


class MultiSource(AerialSource):
    """Several sources as one; see this module for the rule.

    Args:
        members: at least one.
        cover: fraction of a crop, 0 to 1.
        first: members of this date come before all others, whatever they show of a crop.
    """

    def __init__(self, members: Sequence[Member], cover: float = 0.9, first: str | None = None) -> None:
        self.cover, self._first = cover, first
        # Stable sorts: the order of the list decides where nothing else does.
        self.members = sorted(sorted(members, key=lambda member: member.day, reverse=True), key=self._rank)
        self.attribution = union(member.attribution or member.source.attribution for member in self.members)
        self.licence = union(member.licence or member.source.licence for member in self.members)
        self.is_remote = any(member.source.is_remote for member in self.members)
        what = [(member.source.identity, member.day, member.priority) for member in self.members]
        self.identity = hashlib.sha256(repr((what, cover, first)).encode()).hexdigest()[:16]
        self.date = max((member.day for member in self.members), default="") or None

    @property
    def missing(self) -> Counter[Missing]:
        """What all members have masked so far."""
        return sum((member.source.missing for member in self.members), Counter[Missing]())

    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0) -> Crop:
        """See `AerialSource.read`."""
        crops, chosen = list[Crop](), None
        seen = np.zeros((size_px, size_px), bool)
        for member in self.members:
            crop = member.read(lat_deg, lon_deg, size_m, size_px, bearing_deg)
            crops.append(crop)
            seen |= crop.mask
            enough = crop.mask.mean() >= self.cover or (self._first is not None and member.day == self._first)
            if chosen is None and enough and crop.mask.any():
                chosen = crop
            if chosen is not None and seen.all():
                break
        if chosen is None:  # the first of those that show most
            chosen = max(crops, key=lambda crop: int(crop.mask.sum()))
        return merged([chosen, *(crop for crop in crops if crop is not chosen)], size_px)

    def editions(self, count: int) -> list[MultiSource]:
        """Return up to `count` views of the place: this one, then with each further date first, the newest first.

        Where a date shows nothing, its view is filled as this one is.
        """
        days = list(dict.fromkeys(sorted((member.day for member in self.members), reverse=True)))
        others = [day for day in days if day != self.members[0].day]
        return [self, *(MultiSource(self.members, self.cover, day) for day in others[: count - 1])]

    def footprint(self) -> Region:
        """Return the union of the members' footprints."""
        return self._footprint

    def close(self) -> None:
        """Close the members."""
        for member in self.members:
            member.source.close()

    @cached_property
    def _footprint(self) -> Region:
        return Region(shapely.union_all([member.source.footprint().shape for member in self.members]))

    def _rank(self, member: Member) -> tuple[bool, int]:
        return self._first is not None and member.day != self._first, member.priority


def union(names: Iterable[str]) -> str:
    """Return licences or attributions of several sources as one text."""
    return "; ".join(sorted(set(names) - {""}))


def merged(crops: Iterable[Crop], size_px: int) -> Crop:
    """Merge crops of one place: where one has no imagery, the next fills in.

    The attribution names those that show, the date is the oldest of theirs.
    """
    pixels, mask = np.zeros((size_px, size_px, 3), np.uint8), np.zeros((size_px, size_px), bool)
    shown, complete = [], True
    for crop in crops:
        fresh = crop.mask & ~mask
        complete &= crop.complete
        if fresh.any():
            pixels[fresh], mask = crop.pixels[fresh], mask | fresh
            shown.append(crop)
    names = "; ".join(dict.fromkeys(crop.attribution for crop in shown if crop.attribution))
    return Crop(pixels, mask, names, min((crop.date for crop in shown if crop.date), default=None), complete)
