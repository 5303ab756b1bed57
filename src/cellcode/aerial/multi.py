"""Several dates or providers of one place, listed in a YAML file and chosen for each crop.

    cover: 0.9                      # share of a crop that a source must show to be taken for it
    sources:
      - source: ortho_2024          # whatever --aerial takes; paths are relative to the file
        date: 2024-04-12
        licence: CC BY 4.0
        attribution: Town of Example
      - source: pdok-25cm
        priority: 1                 # after all of priority 0, however new

The rule: in the order of priority, then from the newest date on, the first source that shows at least `cover` of the crop is
taken; if none does, the one that shows most. What it does not show is filled from the others in that order. A source is asked
only while something is missing.
"""

from __future__ import annotations

import datetime
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
import shapely
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cellcode.aerial.missing import Missing, missing
from cellcode.aerial.open import open_source
from cellcode.aerial.protocol import AerialSource, Crop
from cellcode.aerial.rasters.mosaic import joined
from cellcode.errors import InputError, UsageError
from cellcode.geography import Region
from cellcode.types import Bools


@dataclass(frozen=True)
class Member:
    """One of several sources, with what is said of it beside what it says itself.

    Attributes:
        date: ISO 8601; None: the source's own.
        licence, attribution: empty: the source's own.
        priority: smaller comes first.
    """

    source: AerialSource
    date: str | None = None
    licence: str = ""
    attribution: str = ""
    priority: int = 0

    @property
    def day(self) -> str:
        """The date by which it is ordered; empty if none is known."""
        return self.date or self.source.date or ""

    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float) -> Crop:
        """Cut a crop, with the member's date and attribution."""
        crop = self.source.read(lat_deg, lon_deg, size_m, size_px, bearing_deg)
        return replace(crop, date=self.date or crop.date, attribution=self.attribution or crop.attribution)


class SeveralSource:
    """Several sources as one; see this module for the rule.

    Args:
        members: at least one.
        cover: share of a crop, 0 to 1.
        first: members of this date are taken before all others, whatever they show of a crop.
    """

    def __init__(self, members: Sequence[Member], cover: float = 0.9, first: str | None = None) -> None:
        self.cover, self._first = cover, first
        # Stable sorts: the order of the list decides where nothing else does.
        self.members = sorted(sorted(members, key=lambda member: member.day, reverse=True), key=self._rank)
        names = {member.attribution or member.source.attribution for member in self.members}
        licences = {member.licence or member.source.licence for member in self.members}
        self.attribution, self.licence = "; ".join(sorted(names - {""})), "; ".join(sorted(licences - {""}))
        what = [(member.source.identity, member.day, member.priority) for member in self.members]
        self.identity = hashlib.sha256(repr((what, cover, first)).encode()).hexdigest()[:16]
        self.date = max((member.day for member in self.members), default="") or None
        self._footprint = Region(shapely.union_all([member.source.footprint().shape for member in self.members]))
        self.bounds = self._footprint.bounds

    @classmethod
    def read_yaml(cls, path: Path | str) -> Self:
        """Open what a file lists.

        Raises:
            InputError: the file or a source cannot be read.
            UsageError: a key or value is not understood.
        """
        path = Path(path)
        listing = _read(path)
        return cls([_member(path, entry) for entry in listing.sources], listing.cover)

    @property
    def missing(self) -> Counter[Missing]:
        """What all members have masked so far."""
        return sum((missing(member.source) for member in self.members), Counter[Missing]())

    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0) -> Crop:
        """See `AerialSource.read`."""
        crops: list[Crop] = []
        chosen: Crop | None = None
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
        return joined([chosen, *(crop for crop in crops if crop is not chosen)], size_px)

    def editions(self, count: int) -> list[SeveralSource]:
        """Return up to `count` views of the place: this one, then with each further date first, the newer the earlier.

        Where a date shows nothing, its view is filled as this one is.
        """
        days = list(dict.fromkeys(sorted((member.day for member in self.members), reverse=True)))
        shown_first = self.members[0].day
        others = [day for day in days if day != shown_first]
        return [self, *(SeveralSource(self.members, self.cover, day) for day in others[: count - 1])]

    def footprint(self) -> Region:
        """Return the union of the members' footprints."""
        return self._footprint

    def covers(self, lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike) -> Bools:
        """See `AerialSource.covers`."""
        return self._footprint.contains(lat_deg, lon_deg)

    def close(self) -> None:
        """Close those members that can be closed."""
        for member in self.members:
            close = getattr(member.source, "close", None)
            if close is not None:
                close()

    def _rank(self, member: Member) -> tuple[bool, int]:
        return self._first is not None and member.day != self._first, member.priority


def editions(source: AerialSource, count: int) -> list[AerialSource]:
    """Return up to `count` views of a source's place at different dates, the source itself first."""
    return list(source.editions(count)) if isinstance(source, SeveralSource) else [source]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    date: datetime.date | None = None
    licence: str = ""
    attribution: str = ""
    priority: int = 0


class _Listing(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    cover: Annotated[float, Field(ge=0, le=1)] = 0.9
    sources: Annotated[list[_Entry], Field(min_length=1)]


def _read(path: Path) -> _Listing:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as YAML ({str(error).splitlines()[0]})") from None
    try:
        return _Listing.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "it"
        raise UsageError(
            f"{path}: {where}: {first['msg']}; a list of imagery has cover and sources, each with source, date, licence, "
            "attribution and priority"
        ) from None


def _member(path: Path, entry: _Entry) -> Member:
    is_file = (path.parent / entry.source.partition("#")[0]).exists()
    source = open_source(path.parent / entry.source if is_file else entry.source)
    date = entry.date.isoformat() if entry.date is not None else None
    return Member(source, date, entry.licence, entry.attribution, entry.priority)
